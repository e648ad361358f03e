#include "tensorrt/log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <iostream>

namespace bitexport {
namespace trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

nvinfer1::ILogger* find_logger() {
  nvinfer1::ILoggerFinder* const finder = logger_finder.load();
  return finder == nullptr ? nullptr : finder->findLogger();
}

// False where nobody listens.
bool log(nvinfer1::ILogger::Severity severity, const std::string& layer,
         const char* message) noexcept {
  try {
    nvinfer1::ILogger* const logger = find_logger();
    if (logger == nullptr) return false;
    logger->log(severity, ("bitexport: " + layer + ": " + message).c_str());
    return true;
  } catch (...) {
    return false;
  }
}

bool is_loaded(int tensorrt_major) {
  const std::string name = "libnvinfer.so." + std::to_string(tensorrt_major);
  void* const library = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (library != nullptr) dlclose(library);
  return library != nullptr;
}

// Plugins and creators have the same virtual tables in TensorRT 10 and 11; loggers do not: in 11
// ILogger and ILoggerFinder got a base class. A call across would land in another function.
bool loggers_fit() {
  if (is_loaded(NV_TENSORRT_MAJOR)) return true;
  for (const int other : {10, 11, 12}) {
    if (is_loaded(other)) return false;
  }
  return true;
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept {
  try {
    logger_finder.store(loggers_fit() ? finder : nullptr);
  } catch (...) {
    logger_finder.store(nullptr);
  }
}

void log_error(const std::string& layer, const char* message) noexcept {
  if (log(nvinfer1::ILogger::Severity::kERROR, layer, message)) return;
  std::cerr << "bitexport: " << layer << ": " << message << "\n";
}

void log_verbose(const std::string& layer, const char* message) noexcept {
  if (log(nvinfer1::ILogger::Severity::kVERBOSE, layer, message)) return;
  if (std::getenv("BITEXPORT_TRT_VERBOSE") == nullptr) return;
  std::cerr << "bitexport: " << layer << ": " << message << "\n";
}

}  // namespace trt
}  // namespace bitexport
