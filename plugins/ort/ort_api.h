// The slice of ONNX Runtime's C API that a custom-op library needs, as its wheels ship no headers.
//
// The API is a table of function pointers that is only ever appended to, so a library that asks for
// version N runs with every ONNX Runtime from 1.N on. Members keep ONNX Runtime's names; what lies
// between them is `unused_...`. A function returns nullptr, or a status that the caller releases.
// tests/check_ort_abi.cpp compares all of this with the real header where there is one.

#ifndef BITEXPORT_ORT_ORT_API_H_
#define BITEXPORT_ORT_ORT_API_H_

#include <cstddef>
#include <cstdint>

// Opaque handles, under the very names of the real header, so that both may be included at once.
struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtMemoryInfo;
struct OrtOpAttr;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

namespace bitexport {
namespace ort {

// The lowest version with shape inference and ParallelFor: ONNX Runtime 1.17.
inline constexpr std::uint32_t kApiVersion = 17;

// The lowest version with scratch memory on a stream, for the CUDA side: ONNX Runtime 1.18.
inline constexpr std::uint32_t kStreamApiVersion = 18;

// C enums that hold no negative number are unsigned for GCC and Clang.
enum class ErrorCode : unsigned { kFail = 1, kInvalidArgument = 2, kRuntimeException = 6 };

enum class TensorType : unsigned { kUndefined = 0, kFloat = 1, kInt32 = 6, kFloat16 = 10 };

enum class AttributeType : unsigned { kInt = 1, kInts = 2 };

enum class AllocatorType : int { kDevice = 0 };

enum class MemoryType : int { kDefault = 0 };

enum class Characteristic : unsigned { kRequired = 0 };

struct Allocator {
  std::uint32_t version;
  void* (*Alloc)(Allocator* allocator, std::size_t bytes);
  void (*Free)(Allocator* allocator, void* memory);
};

// The number before a group of members is the place of its first one in the table.
struct Api {
  // 0
  OrtStatus* (*CreateStatus)(ErrorCode code, const char* message) noexcept;
  ErrorCode (*GetErrorCode)(const OrtStatus* status) noexcept;
  const char* (*GetErrorMessage)(const OrtStatus* status) noexcept;
  void* unused_3[23];
  // 26
  OrtStatus* (*CreateCustomOpDomain)(const char* domain, OrtCustomOpDomain** out) noexcept;
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const struct CustomOp* op) noexcept;
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain) noexcept;
  void* unused_29[22];
  // 51
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out) noexcept;
  void* unused_52[5];
  // 57
  OrtStatus* (*CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo** out) noexcept;
  OrtStatus* (*SetTensorElementType)(OrtTensorTypeAndShapeInfo* info, TensorType type) noexcept;
  OrtStatus* (*SetDimensions)(OrtTensorTypeAndShapeInfo* info, const std::int64_t* dims,
                              std::size_t rank) noexcept;
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info,
                                     TensorType* out) noexcept;
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info,
                                   std::size_t* out) noexcept;
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, std::int64_t* dims,
                              std::size_t rank) noexcept;
  OrtStatus* (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo* info, const char** names,
                                      std::size_t rank) noexcept;
  void* unused_64[1];
  // 65
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value,
                                      OrtTensorTypeAndShapeInfo** out) noexcept;
  void* unused_66[2];
  // 68
  OrtStatus* (*CreateMemoryInfo)(const char* name, AllocatorType allocator, int id,
                                 MemoryType memory, OrtMemoryInfo** out) noexcept;
  OrtStatus* (*CreateCpuMemoryInfo)(AllocatorType allocator, MemoryType memory,
                                    OrtMemoryInfo** out) noexcept;
  void* unused_70[16];
  // 86
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name,
                                             std::int64_t* out) noexcept;
  void* unused_87[3];
  // 90
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, std::size_t index,
                                       const OrtValue** out) noexcept;
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, std::size_t index,
                                        const std::int64_t* dims, std::size_t rank,
                                        OrtValue** out) noexcept;
  void* unused_92[1];
  // 93
  void (*ReleaseStatus)(OrtStatus* status);
  void (*ReleaseMemoryInfo)(OrtMemoryInfo* info);
  void* unused_95[4];
  // 99
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);
  void* unused_100[1];
  // 101
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);
  void* unused_102[23];
  // 125
  OrtStatus* (*GetAvailableProviders)(char*** names, int* count) noexcept;
  OrtStatus* (*ReleaseAvailableProviders)(char** names, int count) noexcept;
  void* unused_127[5];
  // 132
  void (*ReleaseAllocator)(Allocator* allocator);
  void* unused_133[30];
  // 163; size counts the elements of `out`, then those there are
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo* info, const char* name,
                                                  std::int64_t* out, std::size_t* size) noexcept;
  void* unused_164[29];
  // 193; null where the node's execution provider has no streams
  OrtStatus* (*KernelContext_GetGPUComputeStream)(const OrtKernelContext* context,
                                                  void** out) noexcept;
  void* unused_194[50];
  // 244; size counts the bytes of `out`, the 0 at the end among them
  OrtStatus* (*KernelInfo_GetNodeName)(const OrtKernelInfo* info, char* out,
                                       std::size_t* size) noexcept;
  void* unused_245[4];
  // 249; `out` stays the session's
  OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo* info, std::size_t index,
                                                  int* is_constant, const OrtValue** out) noexcept;
  void* unused_250[3];
  // 253
  OrtStatus* (*KernelContext_GetAllocator)(const OrtKernelContext* context,
                                           const OrtMemoryInfo* memory, Allocator** out) noexcept;
  void* unused_254[14];
  // 268; `info` stays the context's
  OrtStatus* (*ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext* context,
                                                    std::size_t index,
                                                    OrtTensorTypeAndShapeInfo** info) noexcept;
  OrtStatus* (*ShapeInferContext_GetAttribute)(const OrtShapeInferContext* context,
                                               const char* name, const OrtOpAttr** out) noexcept;
  OrtStatus* (*ShapeInferContext_SetOutputTypeShape)(
      const OrtShapeInferContext* context, std::size_t index,
      const OrtTensorTypeAndShapeInfo* info) noexcept;
  OrtStatus* (*SetSymbolicDimensions)(OrtTensorTypeAndShapeInfo* info, const char** names,
                                      std::size_t rank) noexcept;
  // `bytes` fit into data; out: the bytes that there are
  OrtStatus* (*ReadOpAttr)(const OrtOpAttr* attribute, AttributeType type, void* data,
                           std::size_t bytes, std::size_t* out) noexcept;
  void* unused_273[1];
  // 274; batches 0: no limit
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context,
                                          void (*unit)(void*, std::size_t), std::size_t units,
                                          std::size_t batches, void* data) noexcept;
  void* unused_275[2];
  // 277, since kStreamApiVersion; for a node whose Run has a stream. The memory goes back to the
  // Free of what KernelContext_GetAllocator gives.
  OrtStatus* (*KernelContext_GetScratchBuffer)(const OrtKernelContext* context,
                                               const OrtMemoryInfo* memory, std::size_t bytes,
                                               void** out) noexcept;
};

static_assert(offsetof(Api, KernelContext_GetScratchBuffer) == 277 * sizeof(void*),
              "the gaps of the table do not add up");

struct ApiBase {
  const Api* (*GetApi)(std::uint32_t version) noexcept;
  const char* (*GetVersionString)() noexcept;
};

// What a library fills in for an op. ONNX Runtime reads no further than `version` has members.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp* op, const Api* api, const OrtKernelInfo* info);
  const char* (*GetName)(const CustomOp* op);
  const char* (*GetExecutionProviderType)(const CustomOp* op);
  TensorType (*GetInputType)(const CustomOp* op, std::size_t index);
  std::size_t (*GetInputTypeCount)(const CustomOp* op);
  TensorType (*GetOutputType)(const CustomOp* op, std::size_t index);
  std::size_t (*GetOutputTypeCount)(const CustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const CustomOp* op, std::size_t index);
  Characteristic (*GetOutputCharacteristic)(const CustomOp* op, std::size_t index);
  MemoryType (*GetInputMemoryType)(const CustomOp* op, std::size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp* op);
  int (*GetVariadicInputHomogeneity)(const CustomOp* op);
  int (*GetVariadicOutputMinArity)(const CustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const CustomOp* op);
  OrtStatus* (*CreateKernelV2)(const CustomOp* op, const Api* api, const OrtKernelInfo* info,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const CustomOp* op, OrtShapeInferContext* context);
  int (*GetStartVersion)(const CustomOp* op);
  int (*GetEndVersion)(const CustomOp* op);
  std::size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  std::size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_ORT_API_H_
