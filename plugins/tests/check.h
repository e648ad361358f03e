// The smallest test harness that says where a check failed, with which values and which seed.

#ifndef BITEXPORT_TESTS_CHECK_H_
#define BITEXPORT_TESTS_CHECK_H_

#include <cstdint>
#include <iostream>
#include <random>
#include <string>

namespace bitexport_test {

struct State {
  std::uint64_t seed = 0;
  std::string where;  // what the checks are about, printed with a failure
  std::int64_t checks = 0;
  std::int64_t failures = 0;
};

inline State& state() {
  static State instance;
  return instance;
}

template <typename A, typename B>
void check_equal(const A& got, const B& expected, const char* text, const char* file, int line) {
  constexpr std::int64_t kShown = 20;
  State& s = state();
  ++s.checks;
  if (got == expected) return;
  if (++s.failures > kShown) return;
  std::cerr << file << ":" << line << ": " << text << "\n  got " << +got << ", expected "
            << +expected << "\n  seed " << s.seed << (s.where.empty() ? "" : ", ") << s.where
            << "\n";
}

// Engine output is the same on every platform; distributions are not, hence only these two.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {
    state().seed = seed;
    std::cout << "seed " << seed << "\n";
  }

  // A number from 0 to below - 1.
  std::uint32_t below(std::uint32_t below) { return static_cast<std::uint32_t>(engine_() % below); }

  // A number from -1 to 1, a multiple of 1/256, so that equal values and zeros do occur.
  float real() { return (static_cast<float>(below(513)) - 256.0f) / 256.0f; }

 private:
  std::mt19937_64 engine_;
};

// The exit code of a test that needs what this machine lacks, as CTest is told.
inline constexpr int kSkipped = 77;

// The exit code of a test: not 0 where a check failed, or where none ran.
inline int finish() {
  const State& s = state();
  std::cout << s.checks << " checks, " << s.failures << " failures\n";
  return s.failures == 0 && s.checks > 0 ? 0 : 1;
}

}  // namespace bitexport_test

#define CHECK_EQUAL(got, expected) \
  bitexport_test::check_equal((got), (expected), #got " == " #expected, __FILE__, __LINE__)
#define CHECK(condition) CHECK_EQUAL(static_cast<bool>(condition), true)

#endif  // BITEXPORT_TESTS_CHECK_H_
