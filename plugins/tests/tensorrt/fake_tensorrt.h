// TensorRT's side of the plugin interfaces, as far as plugins see it: size expressions and a
// logger.

#ifndef BITEXPORT_TESTS_TENSORRT_FAKE_TENSORRT_H_
#define BITEXPORT_TESTS_TENSORRT_FAKE_TENSORRT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensorrt/api.h"

namespace bitexport_test {

// A size with the value that it will have; `known` says whether a plugin may look at it.
class FakeSize : public nvinfer1::IDimensionExpr {
 public:
  FakeSize(std::int64_t value, bool known) : implementation_(value, known) {
    mImpl = &implementation_;
  }
  ~FakeSize() noexcept override = default;

  // What it will be, known or not.
  static std::int64_t value_of(const nvinfer1::IDimensionExpr& size) {
    return static_cast<const FakeSize&>(size).implementation_.value;
  }

 private:
  struct Implementation : nvinfer1::apiv::VDimensionExpr {
    Implementation(std::int64_t its_value, bool is_known) : value(its_value), known(is_known) {}
    bool isConstant() const override { return known; }
    // TensorRT gives a sentinel for a size that it does not know.
    std::int64_t getConstantValue() const override { return known ? value : INT64_MIN; }
    bool isSizeTensor() const override { return false; }

    std::int64_t value;
    bool known;
  };

  Implementation implementation_;
};

// Computes what the expressions stand for. After `limit` expressions it gives null, as TensorRT
// does where it cannot make one.
class FakeBuilder : public nvinfer1::IExprBuilder {
 public:
  explicit FakeBuilder(int limit = 1000) : implementation_(*this), limit_(limit) {
    mImpl = &implementation_;
  }
  ~FakeBuilder() noexcept override = default;

  const nvinfer1::IDimensionExpr* make(std::int64_t value, bool known) {
    sizes_.push_back(std::make_unique<FakeSize>(value, known));
    return sizes_.back().get();
  }

 private:
  using Size = nvinfer1::IDimensionExpr;
  using Operation = nvinfer1::DimensionOperation;

  struct Implementation : nvinfer1::apiv::VExprBuilder {
    explicit Implementation(FakeBuilder& its_builder) : builder(its_builder) {}
    const Size* constant(std::int64_t value) override {
      return builder.limit_-- > 0 ? builder.make(value, true) : nullptr;
    }
    const Size* operation(Operation operation, const Size& first, const Size& second) override {
      if (builder.limit_-- <= 0) return nullptr;
      const bool known = first.isConstant() && second.isConstant();
      return builder.make(result(operation, FakeSize::value_of(first), FakeSize::value_of(second)),
                          known);
    }
    const Size* declareSizeTensor(std::int32_t, const Size&, const Size&) override {
      return nullptr;
    }
    static std::int64_t result(Operation operation, std::int64_t a, std::int64_t b) {
      switch (operation) {
        case Operation::kSUM:
          return a + b;
        case Operation::kSUB:
          return a - b;
        case Operation::kPROD:
          return a * b;
        case Operation::kFLOOR_DIV:
          return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
        default:
          return INT64_MIN;
      }
    }

    FakeBuilder& builder;
  };

  Implementation implementation_;
  int limit_;
  std::vector<std::unique_ptr<FakeSize>> sizes_;
};

// Keeps the errors that plugins log.
class RecordingLogger : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity == Severity::kERROR) errors.emplace_back(message);
  }
  nvinfer1::ILogger* findLogger() override { return this; }

  // The last error since the last call; empty where there was none.
  std::string take() {
    const std::string last = errors.empty() ? "" : errors.back();
    errors.clear();
    return last;
  }

  std::vector<std::string> errors;
};

}  // namespace bitexport_test

#endif  // BITEXPORT_TESTS_TENSORRT_FAKE_TENSORRT_H_
