// Holds ort/ort_api.h equal to ONNX Runtime's own header: places, signatures and enumerators.
//
// Built only where CMake is given ONNXRUNTIME_INCLUDE, the folder of onnxruntime_c_api.h.

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <type_traits>

#include "ort/ort_api.h"
#include "tests/check.h"

namespace {

namespace ours = bitexport::ort;

// ---- Our types -> ONNX Runtime's ----------------------------------------------------------------

template <typename T>
struct RealOf {
  using type = T;
};
template <typename T>
using Real = typename RealOf<T>::type;

template <typename T>
struct RealOf<const T> {
  using type = const Real<T>;
};
template <typename T>
struct RealOf<T*> {
  using type = Real<T>*;
};
template <typename R, typename... Args>
struct RealOf<R(Args...)> {
  using type = Real<R>(Real<Args>...);
};
template <typename R, typename... Args>
struct RealOf<R(Args...) noexcept> {
  using type = Real<R>(Real<Args>...) noexcept;
};

#define STANDS_FOR(our_type, real_type) \
  template <>                           \
  struct RealOf<ours::our_type> {       \
    using type = real_type;             \
  };                                    \
  static_assert(true)

STANDS_FOR(Api, OrtApi);
STANDS_FOR(ApiBase, OrtApiBase);
STANDS_FOR(CustomOp, OrtCustomOp);
STANDS_FOR(Allocator, OrtAllocator);
STANDS_FOR(ErrorCode, OrtErrorCode);
STANDS_FOR(TensorType, ONNXTensorElementDataType);
STANDS_FOR(AttributeType, OrtOpAttrType);
STANDS_FOR(AllocatorType, OrtAllocatorType);
STANDS_FOR(MemoryType, OrtMemType);
STANDS_FOR(Characteristic, OrtCustomOpInputOutputCharacteristic);

template <typename Enum>
constexpr bool same_underlying =
    std::is_same_v<std::underlying_type_t<Enum>, std::underlying_type_t<Real<Enum>>>;

// ---- The checks ---------------------------------------------------------------------------------

#define SAME_MEMBER(our_struct, member)                                   \
  static_assert(std::is_same_v<Real<decltype(ours::our_struct::member)>,  \
                               decltype(Real<ours::our_struct>::member)>, \
                "the type of " #our_struct "::" #member " differs");      \
  CHECK_EQUAL(offsetof(ours::our_struct, member) / sizeof(void*),         \
              offsetof(Real<ours::our_struct>, member) / sizeof(void*))

#define SAME_VALUE(our_enum, enumerator, real)    \
  static_assert(same_underlying<ours::our_enum>); \
  CHECK_EQUAL(static_cast<int>(ours::our_enum::enumerator), static_cast<int>(real))

void check_api() {
  SAME_MEMBER(ApiBase, GetApi);
  SAME_MEMBER(ApiBase, GetVersionString);
  SAME_MEMBER(Api, CreateStatus);
  SAME_MEMBER(Api, GetErrorCode);
  SAME_MEMBER(Api, GetErrorMessage);
  SAME_MEMBER(Api, CreateCustomOpDomain);
  SAME_MEMBER(Api, CustomOpDomain_Add);
  SAME_MEMBER(Api, AddCustomOpDomain);
  SAME_MEMBER(Api, GetTensorMutableData);
  SAME_MEMBER(Api, CreateTensorTypeAndShapeInfo);
  SAME_MEMBER(Api, SetTensorElementType);
  SAME_MEMBER(Api, SetDimensions);
  SAME_MEMBER(Api, GetTensorElementType);
  SAME_MEMBER(Api, GetDimensionsCount);
  SAME_MEMBER(Api, GetDimensions);
  SAME_MEMBER(Api, GetSymbolicDimensions);
  SAME_MEMBER(Api, GetTensorTypeAndShape);
  SAME_MEMBER(Api, CreateMemoryInfo);
  SAME_MEMBER(Api, CreateCpuMemoryInfo);
  SAME_MEMBER(Api, KernelInfoGetAttribute_int64);
  SAME_MEMBER(Api, KernelContext_GetInput);
  SAME_MEMBER(Api, KernelContext_GetOutput);
  SAME_MEMBER(Api, ReleaseStatus);
  SAME_MEMBER(Api, ReleaseMemoryInfo);
  SAME_MEMBER(Api, ReleaseTensorTypeAndShapeInfo);
  SAME_MEMBER(Api, ReleaseCustomOpDomain);
  SAME_MEMBER(Api, GetAvailableProviders);
  SAME_MEMBER(Api, ReleaseAvailableProviders);
  SAME_MEMBER(Api, ReleaseAllocator);
  SAME_MEMBER(Api, KernelInfoGetAttributeArray_int64);
  SAME_MEMBER(Api, KernelContext_GetGPUComputeStream);
  SAME_MEMBER(Api, KernelInfo_GetNodeName);
  SAME_MEMBER(Api, KernelInfoGetConstantInput_tensor);
  SAME_MEMBER(Api, KernelContext_GetAllocator);
  SAME_MEMBER(Api, ShapeInferContext_GetInputTypeShape);
  SAME_MEMBER(Api, ShapeInferContext_GetAttribute);
  SAME_MEMBER(Api, ShapeInferContext_SetOutputTypeShape);
  SAME_MEMBER(Api, SetSymbolicDimensions);
  SAME_MEMBER(Api, ReadOpAttr);
  SAME_MEMBER(Api, KernelContext_ParallelFor);
  SAME_MEMBER(Api, KernelContext_GetScratchBuffer);
}

void check_custom_op() {
  SAME_MEMBER(CustomOp, version);
  SAME_MEMBER(CustomOp, CreateKernel);
  SAME_MEMBER(CustomOp, GetName);
  SAME_MEMBER(CustomOp, GetExecutionProviderType);
  SAME_MEMBER(CustomOp, GetInputType);
  SAME_MEMBER(CustomOp, GetInputTypeCount);
  SAME_MEMBER(CustomOp, GetOutputType);
  SAME_MEMBER(CustomOp, GetOutputTypeCount);
  SAME_MEMBER(CustomOp, KernelCompute);
  SAME_MEMBER(CustomOp, KernelDestroy);
  SAME_MEMBER(CustomOp, GetInputCharacteristic);
  SAME_MEMBER(CustomOp, GetOutputCharacteristic);
  SAME_MEMBER(CustomOp, GetInputMemoryType);
  SAME_MEMBER(CustomOp, GetVariadicInputMinArity);
  SAME_MEMBER(CustomOp, GetVariadicInputHomogeneity);
  SAME_MEMBER(CustomOp, GetVariadicOutputMinArity);
  SAME_MEMBER(CustomOp, GetVariadicOutputHomogeneity);
  SAME_MEMBER(CustomOp, CreateKernelV2);
  SAME_MEMBER(CustomOp, KernelComputeV2);
  SAME_MEMBER(CustomOp, InferOutputShapeFn);
  SAME_MEMBER(CustomOp, GetStartVersion);
  SAME_MEMBER(CustomOp, GetEndVersion);
  SAME_MEMBER(CustomOp, GetMayInplace);
  SAME_MEMBER(CustomOp, ReleaseMayInplace);
  SAME_MEMBER(CustomOp, GetAliasMap);
  SAME_MEMBER(CustomOp, ReleaseAliasMap);
  SAME_MEMBER(Allocator, version);
  SAME_MEMBER(Allocator, Alloc);
  SAME_MEMBER(Allocator, Free);
}

void check_enums() {
  SAME_VALUE(ErrorCode, kFail, ORT_FAIL);
  SAME_VALUE(ErrorCode, kInvalidArgument, ORT_INVALID_ARGUMENT);
  SAME_VALUE(ErrorCode, kRuntimeException, ORT_RUNTIME_EXCEPTION);
  SAME_VALUE(TensorType, kUndefined, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
  SAME_VALUE(TensorType, kFloat, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  SAME_VALUE(TensorType, kInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
  SAME_VALUE(TensorType, kFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
  SAME_VALUE(AttributeType, kInt, ORT_OP_ATTR_INT);
  SAME_VALUE(AttributeType, kInts, ORT_OP_ATTR_INTS);
  SAME_VALUE(AllocatorType, kDevice, OrtDeviceAllocator);
  SAME_VALUE(MemoryType, kDefault, OrtMemTypeDefault);
  SAME_VALUE(Characteristic, kRequired, INPUT_OUTPUT_REQUIRED);
}

}  // namespace

int main() {
  check_api();
  check_custom_op();
  check_enums();
  return bitexport_test::finish();
}
