// Where the CUDA side of the op library runs. The tests put the host in the GPU's place.

#ifndef BITEXPORT_ORT_CUDA_PLATFORM_H_
#define BITEXPORT_ORT_CUDA_PLATFORM_H_

#include "ort/ort_api.h"

namespace bitexport {
namespace ort {
namespace gpu {

// Name of the execution provider that the ops are for.
const char* provider();

// Whether there is a device to run on.
bool has_device();

// Describes the memory of device `id`; the caller releases `out`.
OrtStatus* memory_of(const Api& api, int id, OrtMemoryInfo** out);

}  // namespace gpu
}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_CUDA_PLATFORM_H_
