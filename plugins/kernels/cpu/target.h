// Compiles what stands between the two lines for an instruction set:
//
//     BITEXPORT_TARGET_BEGIN("avx2")
//     ...
//     BITEXPORT_TARGET_END
//
// Only after all headers of the standard library and of the project: what those define is shared
// with other files, and the linker keeps one copy of it, which must run on every CPU.

#ifndef BITEXPORT_KERNELS_CPU_TARGET_H_
#define BITEXPORT_KERNELS_CPU_TARGET_H_

#define BITEXPORT_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define BITEXPORT_TARGET_BEGIN(instructions) \
  BITEXPORT_PRAGMA(clang attribute push(__attribute__((target(instructions))), apply_to = function))
#define BITEXPORT_TARGET_END BITEXPORT_PRAGMA(clang attribute pop)
#else
#define BITEXPORT_TARGET_BEGIN(instructions) \
  BITEXPORT_PRAGMA(GCC push_options) BITEXPORT_PRAGMA(GCC target(instructions))
#define BITEXPORT_TARGET_END BITEXPORT_PRAGMA(GCC pop_options)
#endif

#endif  // BITEXPORT_KERNELS_CPU_TARGET_H_
