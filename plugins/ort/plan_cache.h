// What a kernel works out once for an input size, kept between Runs.

#ifndef BITEXPORT_ORT_PLAN_CACHE_H_
#define BITEXPORT_ORT_PLAN_CACHE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace bitexport {
namespace ort {

// Plans by height and width. Runs overlap, so a plan is shared: one that makes room for another
// lives until the last Run is done with it.
template <typename Plan>
class PlanCache {
 public:
  // The plan for an input size; make() gives a std::unique_ptr where there is none.
  template <typename Make>
  std::shared_ptr<const Plan> get(std::int32_t height, std::int32_t width, Make make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
      return entry.height == height && entry.width == width;
    });
    if (found != entries_.end()) {
      // Most recently used last; the cache is too small for anything cleverer.
      std::rotate(found, found + 1, entries_.end());
      return entries_.back().plan;
    }
    Entry entry{height, width, make()};
    if (entries_.size() == kCapacity) entries_.erase(entries_.begin());
    entries_.push_back(std::move(entry));
    return entries_.back().plan;
  }

 private:
  // A model with inputs of any size must not grow without end.
  static constexpr std::size_t kCapacity = 16;

  struct Entry {
    std::int32_t height;
    std::int32_t width;
    std::shared_ptr<const Plan> plan;
  };

  std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace ort
}  // namespace bitexport

#endif  // BITEXPORT_ORT_PLAN_CACHE_H_
