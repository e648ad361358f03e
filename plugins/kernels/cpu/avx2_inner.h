// The inner loop of the look-up kernels for four vectors of AVX2, in the order of a row of codes
// after the other.
//
// 14 of the 16 registers are in use. GCC 12 orders the same work so that it keeps one or two of the
// eight sums in memory, which takes 10 % longer, or, where it is made not to, moves copies.
//
// To be included once in a file, between the lines of target.h, after avx2_vector.h and
// lookup_inner.h.

namespace bitexport {
namespace cpu {
namespace {

template <>
struct LookupGroup<Vector, 4> {
  using Bytes = Vector::Bytes;
  static constexpr bool kGeneric = false;

  static void add(const std::uint8_t* codes, const LookupTable& t0, const LookupTable& t1,
                  const LookupTable& t2, Bytes (&sums)[4], Bytes (&shifted)[4]) {
    struct Codes {
      std::uint8_t all[kLookupGroup * 4 * Vector::kPixels];
    };
    Bytes t, a, b, c, d, x;
    asm("vbroadcasti128 %[t0], %[t]\n\t"
        "vpshufb 0(%[codes]), %[t], %[a]\n\t"
        "vpshufb 32(%[codes]), %[t], %[b]\n\t"
        "vpshufb 64(%[codes]), %[t], %[c]\n\t"
        "vpshufb 96(%[codes]), %[t], %[d]\n\t"
        "vbroadcasti128 %[t1], %[t]\n\t"
        "vpshufb 128(%[codes]), %[t], %[x]\n\t"
        "vpaddb %[x], %[a], %[a]\n\t"
        "vpshufb 160(%[codes]), %[t], %[x]\n\t"
        "vpaddb %[x], %[b], %[b]\n\t"
        "vpshufb 192(%[codes]), %[t], %[x]\n\t"
        "vpaddb %[x], %[c], %[c]\n\t"
        "vpshufb 224(%[codes]), %[t], %[x]\n\t"
        "vpaddb %[x], %[d], %[d]\n\t"
        "vbroadcasti128 %[t2], %[t]\n\t"
        "vpshufb 256(%[codes]), %[t], %[x]\n\t"
        "vpaddb %[x], %[a], %[a]\n\t"
        "vpshufb 288(%[codes]), %[t], %[x]\n\t"
        "vpaddb %[x], %[b], %[b]\n\t"
        "vpshufb 320(%[codes]), %[t], %[x]\n\t"
        "vpaddb %[x], %[c], %[c]\n\t"
        "vpshufb 352(%[codes]), %[t], %[x]\n\t"
        "vpaddb %[x], %[d], %[d]\n\t"
        "vpaddb %[a], %[s0], %[s0]\n\t"
        "vpsrlw $4, %[a], %[a]\n\t"
        "vpaddb %[b], %[s1], %[s1]\n\t"
        "vpsrlw $4, %[b], %[b]\n\t"
        "vpaddb %[c], %[s2], %[s2]\n\t"
        "vpsrlw $4, %[c], %[c]\n\t"
        "vpaddb %[d], %[s3], %[s3]\n\t"
        "vpsrlw $4, %[d], %[d]\n\t"
        "vpaddb %[a], %[h0], %[h0]\n\t"
        "vpaddb %[b], %[h1], %[h1]\n\t"
        "vpaddb %[c], %[h2], %[h2]\n\t"
        "vpaddb %[d], %[h3], %[h3]\n\t"
        : [t] "=&x"(t), [a] "=&x"(a), [b] "=&x"(b), [c] "=&x"(c), [d] "=&x"(d), [x] "=&x"(x),
          [s0] "+x"(sums[0]), [s1] "+x"(sums[1]), [s2] "+x"(sums[2]), [s3] "+x"(sums[3]),
          [h0] "+x"(shifted[0]), [h1] "+x"(shifted[1]), [h2] "+x"(shifted[2]), [h3] "+x"(shifted[3])
        : [codes] "r"(codes), [t0] "m"(t0), [t1] "m"(t1), [t2] "m"(t2),
          "m"(*reinterpret_cast<const Codes*>(codes)));
  }
};

}  // namespace
}  // namespace cpu
}  // namespace bitexport
