// Our domain of custom ops, as a library registers it with a session.

#ifndef BITEXPORT_ORT_DOMAIN_H_
#define BITEXPORT_ORT_DOMAIN_H_

#include <cstdint>
#include <vector>

#include "ort/custom_op.h"
#include "ort/ort_api.h"

namespace bitexport {
namespace ort {

// The ops that a library offers to one ONNX Runtime. Nodes of the other ops of the table run their
// function bodies there. An op that is registered hides its body for every type and every execution
// provider: each comes for both types that T can be.
using DefineOps = std::vector<OpDefinition> (*)(const Api& api);

// What has a kernel on the CPU; of some ops of the table, or of all.
std::vector<OpDefinition> define_cpu_ops(const Api& api, const Rows<OpSpec>& specs);
std::vector<OpDefinition> define_cpu_ops(const Api& api);

// Adds our domain to a session's options. A library has one `define` for all its sessions, which is
// given an API of at least `version`.
OrtStatus* register_ops(OrtSessionOptions* options, const ApiBase& base, std::uint32_t version,
                        DefineOps define);

}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_DOMAIN_H_
