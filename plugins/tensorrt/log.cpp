#include "tensorrt/log.h"

#include <atomic>
#include <iostream>

namespace bitexport {
namespace trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

nvinfer1::ILogger* find_logger() {
  nvinfer1::ILoggerFinder* const finder = logger_finder.load();
  return finder == nullptr ? nullptr : finder->findLogger();
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder.store(finder); }

void log_error(const std::string& layer, const char* message) noexcept {
  try {
    const std::string line = "bitexport: " + layer + ": " + message;
    if (nvinfer1::ILogger* const logger = find_logger()) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, line.c_str());
    } else {
      std::cerr << line + "\n";
    }
  } catch (...) {
    // Without memory or a logger nobody can be told.
  }
}

}  // namespace trt
}  // namespace bitexport
