// A pointer that knows its array. C defines addresses inside an array and one past its end, and nothing else: any
// arithmetic that leaves them, and any access outside, ends the program with a line that says where.
#ifndef CHECKED_POINTERS_HPP
#define CHECKED_POINTERS_HPP

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

template <class T> class Pointer {
  public:
    Pointer() = default;
    template <int N> Pointer(T (&array)[N]) : Pointer(array, N) {}
    Pointer(T *first, std::int64_t size, std::int64_t at = 0) : first(first), size(size), at(at) { within("starts"); }
    // The address of a single value.
    template <class P, class = std::enable_if_t<std::is_pointer<P>::value>> Pointer(const P &one) : Pointer(one, 1) {}
    operator Pointer<const T>() const { return Pointer<const T>(first, size, at); }

    T &operator[](std::int64_t i) const
    {
        if (at + i < 0 || at + i >= size) {
            fail("accesses", at + i);
        }
        return first[at + i];
    }
    T &operator*() const { return (*this)[0]; }
    Pointer &operator+=(std::int64_t n)
    {
        at += n;
        within("leaves");
        return *this;
    }
    Pointer operator+(std::int64_t n) const { return Pointer(*this) += n; }
    Pointer operator-(std::int64_t n) const { return Pointer(*this) += -n; }
    Pointer &operator++() { return *this += 1; }
    Pointer operator++(int)
    {
        Pointer before = *this;
        *this += 1;
        return before;
    }

  private:
    void within(const char *what) const
    {
        if (at < 0 || at > size) {
            fail(what, at);
        }
    }
    [[noreturn]] void fail(const char *what, std::int64_t where) const
    {
        std::fprintf(stderr, "a pointer %s %lld of %lld values\n", what, (long long)where, (long long)size);
        std::abort();
    }
    T *first = nullptr;
    std::int64_t size = 0;
    std::int64_t at = 0;
};

#endif
