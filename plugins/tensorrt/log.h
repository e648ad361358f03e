// Errors: thrown inside the library, logged with the layer's name at its edges.

#ifndef BITEXPORT_TENSORRT_LOG_H_
#define BITEXPORT_TENSORRT_LOG_H_

#include <exception>
#include <stdexcept>
#include <string>

#include "tensorrt/api.h"

namespace bitexport {
namespace trt {

// What is wrong with a layer, a shape or a device: what was expected, and what came.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where log lines go from now on; null sends them to stderr, and so does the finder of another
// major version of TensorRT than that of our headers. The finder stays the caller's.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Logs an error of a layer, for example "SignConv layer 'stem'".
void log_error(const std::string& layer, const char* message) noexcept;
// Logs what a reader of a verbose log wants to know; to stderr only where the environment has
// BITEXPORT_TRT_VERBOSE.
void log_verbose(const std::string& layer, const char* message) noexcept;

// Runs `body`; where it throws, logs why and returns `on_error`. TensorRT calls noexcept functions:
// an exception that left one would end the process.
template <typename Result, typename Body>
Result guarded(const std::string& layer, Result on_error, Body body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    log_error(layer, error.what());
  } catch (...) {
    log_error(layer, "unknown error");
  }
  return on_error;
}

}  // namespace trt
}  // namespace bitexport

#endif  // BITEXPORT_TENSORRT_LOG_H_
