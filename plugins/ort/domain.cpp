#include "ort/domain.h"

#include <memory>
#include <mutex>
#include <string>

#include "core/op_spec.h"
#include "kernels/cpu/binary_conv.h"
#include "ort/binary_conv.h"
#include "ort/binding.h"

namespace bitexport {
namespace ort {
namespace {

using DomainOwner = std::unique_ptr<OrtCustomOpDomain, void (*)(OrtCustomOpDomain*)>;

// Our domain for one ONNX Runtime, shared by its sessions, which keep pointers into it.
class Domain {
 public:
  Domain(const Api& api, DefineOps define)
      : api_(api), ops_(define(api)), domain_(create(api), api.ReleaseCustomOpDomain) {
    for (const OpDefinition& op : ops_) check(api, api.CustomOpDomain_Add(domain_.get(), &op));
  }

  bool is_of(const Api& api) const { return &api == &api_; }
  OrtCustomOpDomain* get() const { return domain_.get(); }

 private:
  static OrtCustomOpDomain* create(const Api& api) {
    OrtCustomOpDomain* domain = nullptr;
    check(api, api.CreateCustomOpDomain(kDomain, &domain));
    return domain;
  }

  const Api& api_;
  std::vector<OpDefinition> ops_;
  DomainOwner domain_;
};

// A process may hold more than one ONNX Runtime, each with an API table of its own.
OrtCustomOpDomain* domain_for(const Api& api, DefineOps define) {
  static std::mutex mutex;
  static std::vector<std::unique_ptr<Domain>> domains;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& domain : domains) {
    if (domain->is_of(api)) return domain->get();
  }
  domains.push_back(std::make_unique<Domain>(api, define));
  return domains.back()->get();
}

std::string names_of_cpu_ops() {
  std::string names;
  for (const OpSpec& spec : kOps) {
    if (has_binary_activations(spec)) names += (names.empty() ? "" : " ") + std::string(spec.name);
  }
  return names;
}

}  // namespace

std::vector<OpDefinition> define_cpu_ops(const Api& api) { return define_cpu_ops(api, kOps); }

std::vector<OpDefinition> define_cpu_ops(const Api& api, const Rows<OpSpec>& specs) {
  std::vector<OpDefinition> ops;
  for (const TensorType activations : {TensorType::kFloat, TensorType::kFloat16}) {
    for (const OpSpec& spec : specs) {
      if (!has_binary_activations(spec)) continue;
      ops.push_back(define_op<BinaryConv>(api, spec, activations));
    }
  }
  return ops;
}

OrtStatus* register_ops(OrtSessionOptions* options, const ApiBase& base, std::uint32_t version,
                        DefineOps define) {
  const Api* api = base.GetApi(version);
  if (api == nullptr) {
    // Every version can make a status.
    return status_of(*base.GetApi(1), "bitexport", [&] {
      throw Failure("expected ONNX Runtime 1." + std::to_string(version) + " or newer, got " +
                        base.GetVersionString(),
                    ErrorCode::kFail);
    });
  }
  return status_of(*api, "bitexport",
                   [&] { check(*api, api->AddCustomOpDomain(options, domain_for(*api, define))); });
}

}  // namespace ort
}  // namespace bitexport

// The name of the kernel that this CPU and the environment choose; null where the environment names
// one that cannot run here.
extern "C" __attribute__((visibility("default"))) const char* BitexportCpuKernel() {
  try {
    return bitexport::cpu::isa_name(bitexport::cpu::chosen_isa());
  } catch (...) {
    return nullptr;
  }
}

// The ops with a kernel for the CPU, a space between them: what else a model holds runs its body.
extern "C" __attribute__((visibility("default"))) const char* BitexportCpuOps() {
  try {
    static const std::string names = bitexport::ort::names_of_cpu_ops();
    return names.c_str();
  } catch (...) {
    return nullptr;
  }
}
