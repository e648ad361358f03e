// TensorRT's headers, as little of them as plugins need. No symbol of libnvinfer is used:
// everything here is a struct or a virtual call.

#ifndef BITEXPORT_TENSORRT_API_H_
#define BITEXPORT_TENSORRT_API_H_

#include <NvInferRuntime.h>

#if NV_TENSORRT_MAJOR < 10
#error "The plugins need the headers of TensorRT 10.0 or newer: IPluginV3 is not in older ones."
#endif

#endif  // BITEXPORT_TENSORRT_API_H_
