#include "kernels/cuda/conv_plan.h"

#include <limits>

namespace bitexport {
namespace cuda {

namespace {

constexpr std::int64_t kMostBlocks = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kWorkspaceAlignment = 256;

// Hands out the workspace piece by piece.
class Workspace {
 public:
  explicit Workspace(void* start) : start_(static_cast<std::uint8_t*>(start)) {}

  // The piece's address; null while only its size is asked for.
  std::uint8_t* take(std::int64_t bytes) {
    std::uint8_t* piece = start_ == nullptr ? nullptr : start_ + used_;
    used_ += round_up(bytes, kWorkspaceAlignment);
    return piece;
  }
  std::size_t used() const { return static_cast<std::size_t>(used_); }

 private:
  std::uint8_t* start_;
  std::int64_t used_ = 0;
};

bool is_binary(const ConvProblem& problem) { return problem.kind == WeightKind::kBinary; }
bool is_sign(const ConvProblem& problem) { return problem.kind == WeightKind::kSign; }
bool is_half(const ConvProblem& problem) { return problem.type == DataType::kFloat16; }

InputView input_view(const ConvProblem& problem, const void* x) {
  const ConvShape& shape = problem.shape;
  const std::int64_t plane = std::int64_t{1} * shape.vertical.size * shape.horizontal.size;
  if (problem.layout == Layout::kNhwc8) {
    const std::int64_t channels = padded_channels(shape.in_channels);
    return {x, plane * channels, channels, 1, plane};
  }
  return {x, plane * shape.in_channels, 1, plane, plane};
}

EpilogueArgs epilogue_args(const ConvProblem& problem, const ConvBuffers& buffers,
                           std::int32_t* accumulators) {
  EpilogueArgs args = {};
  args.scale = buffers.scale;
  args.bias = buffers.bias;
  args.residual = problem.residual ? buffers.residual : nullptr;
  args.y = buffers.y;
  args.output = problem.layout == Layout::kNhwc8 ? Output::kHalfNhwc8
                : is_half(problem)               ? Output::kHalfNchw
                                                 : Output::kFloatNchw;
  args.activation = {problem.activation, buffers.slope, buffers.shift, buffers.low, buffers.high};
  if (accumulators != nullptr) {
    args.residual = nullptr;
    args.y = accumulators;
    args.output = Output::kAccumulators;
  }
  return args;
}

CodebookArgs codebook_args(const ConvProblem& problem, const ConvBuffers& buffers) {
  CodebookArgs args = {};
  if (problem.depth == 0) return args;
  const CodeBits bits = problem.kind == WeightKind::kCodebook8 ? CodeBits::k8 : CodeBits::k16;
  const std::int32_t row = problem.shape.in_channels_per_group() * problem.shape.taps();
  args.centroids = static_cast<const std::uint16_t*>(buffers.codebook);
  args.words_per_row = code_words(row / problem.depth, bits);
  args.depth = FastDivider::of(problem.depth);
  args.code_bits = static_cast<int>(bits);
  return args;
}

// Valid taps by class. Along the axis the classes' numbers only rise, so that a binary search finds
// an output pixel of each.
AxisRanges axis_ranges(const ConvAxis& axis) {
  AxisRanges ranges = {};
  for (std::int32_t number = 0; number < axis_border_classes(axis); ++number) {
    std::int32_t low = 0;
    std::int32_t high = axis.out_size();  // the first pixel of this class or a later one
    while (low < high) {
      const std::int32_t middle = low + (high - low) / 2;
      if (axis_border_class(axis, axis.valid_taps(middle)) < number) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const bool found =
        low < axis.out_size() && axis_border_class(axis, axis.valid_taps(low)) == number;
    ranges.taps[number] = found ? axis.valid_taps(low) : TapRange{0, -1};
  }
  return ranges;
}

// ---- A: as it is, or prepared in the workspace -------------------------------------------------

// Copies of the bits of a pixel: as wide as the words of a tap allow.
int chunk_bytes_of(std::int32_t words) { return words % 4 == 0 ? 16 : words % 2 == 0 ? 8 : 4; }

// X is halves, and a group of a pixel begins at 16 bytes.
bool reads_x_as_it_is(const ConvProblem& problem) {
  const ConvShape& shape = problem.shape;
  return !is_binary(problem) && problem.layout == Layout::kNhwc8 &&
         (shape.group == 1 || shape.in_channels_per_group() % 8 == 0);
}

Prepare prepare_of(const ConvProblem& problem) {
  if (reads_x_as_it_is(problem)) return Prepare::kNothing;
  if (!is_binary(problem)) return is_half(problem) ? Prepare::kHalves : Prepare::kBfloats;
  if (!is_half(problem)) return Prepare::kSignsOfFloats;
  const ConvShape& shape = problem.shape;
  const bool bytes = problem.layout == Layout::kNhwc8 &&
                     (shape.group == 1 || shape.in_channels_per_group() % 8 == 0);
  return bytes ? Prepare::kSignBytes : Prepare::kSignsOfHalves;
}

// Strides of A, where pixels follow each other without gaps.
void set_strides(const ConvShape& shape, std::int64_t pixel_bytes, std::int64_t group_bytes,
                 ConvArgs* args) {
  args->pixel_stride = pixel_bytes;
  args->row_stride = pixel_bytes * shape.horizontal.size;
  args->batch_stride = args->row_stride * shape.vertical.size;
  args->group_stride = group_bytes;
}

void plan_prologue(const ConvProblem& problem, const ConvBuffers& buffers, Workspace* workspace,
                   ConvPlan* plan) {
  const ConvShape& shape = problem.shape;
  ConvArgs& conv = plan->conv;
  PrologueArgs& args = plan->prologue;
  args.shape = shape;
  args.input = input_view(problem, buffers.x);
  args.threshold = buffers.threshold;
  args.pixels = args.input.plane * shape.batch;
  const bool binary = is_binary(problem);
  args.units = binary ? shape.words_per_tap() : ceil_div(shape.in_channels_per_group(), 8);
  args.units_divider = FastDivider::of(args.units);
  const std::int64_t unit_bytes = binary ? 4 : 16;
  const std::int64_t group_bytes = args.units * unit_bytes;
  const std::int64_t pixel_bytes = group_bytes * shape.group;
  plan->prepare = prepare_of(problem);
  if (plan->prepare == Prepare::kNothing) {
    conv.a = static_cast<const std::uint8_t*>(buffers.x);
    set_strides(shape, padded_channels(shape.in_channels) * 2,
                std::int64_t{shape.in_channels_per_group()} * 2, &conv);
    return;
  }
  set_strides(shape, pixel_bytes, group_bytes, &conv);
  const bool planes = plan->prepare == Prepare::kBfloats;
  args.plane_bytes = round_up(args.pixels * pixel_bytes, kWorkspaceAlignment);
  conv.plane_stride = args.plane_bytes;
  args.out = workspace->take(args.plane_bytes * (planes ? kBfloatTerms : 1));
  conv.a = static_cast<const std::uint8_t*>(args.out);
  if (plan->prepare == Prepare::kSignBytes) {
    args.pixel_units_divider = FastDivider::of(static_cast<std::int32_t>(pixel_bytes));
    args.blocks = ceil_div<std::int64_t>(args.pixels * pixel_bytes, kPrologueThreads);
  } else {
    args.blocks = ceil_div<std::int64_t>(args.pixels, kTilePixels) *
                  ceil_div<std::int64_t>(std::int64_t{args.units} * shape.group, kTileUnits);
  }
}

void plan_corrections(const ConvShape& shape, const ConvBuffers& buffers, bool xor_form,
                      Workspace* workspace, ConvPlan* plan) {
  PrologueArgs& args = plan->prologue;
  args.weight = buffers.weight;
  args.vertical = axis_ranges(shape.vertical);
  args.horizontal = axis_ranges(shape.horizontal);
  args.xor_form = xor_form;
  const std::int64_t classes =
      std::int64_t{1} * axis_border_classes(shape.vertical) * axis_border_classes(shape.horizontal);
  args.corrections =
      reinterpret_cast<std::int32_t*>(workspace->take(classes * shape.out_channels * 4));
  plan->conv.epilogue.corrections = args.corrections;
  plan->correction_blocks = ceil_div<std::int64_t>(shape.out_channels, CorrectionsBlock::kChannels);
}

// ---- B and K -----------------------------------------------------------------------------------

void plan_expansion(const ConvProblem& problem, const ConvBuffers& buffers, Workspace* workspace,
                    ConvPlan* plan) {
  ExpandArgs& args = plan->expand;
  plan->expands = true;
  args.conv = plan->conv;
  args.codes = buffers.weight;
  args.units = plan->conv.units;
  args.vectors = std::int64_t{problem.shape.out_channels} * problem.shape.taps() * args.units;
  args.out = reinterpret_cast<Vector16*>(workspace->take(args.vectors * 16));
  plan->conv.b = args.out;
}

// Units of K: copies of words for sign words as bits, else vectors of 8 channels. Sign words are
// whole in K: 32 channels, four vectors.
void plan_depth(const ConvProblem& problem, ConvPlan* plan) {
  const ConvShape& shape = problem.shape;
  ConvArgs& args = plan->conv;
  const std::int32_t words = shape.words_per_tap();
  int planes = 1;
  if (is_binary(problem)) {
    plan->chunk_bytes = chunk_bytes_of(words);
    args.units = words * 4 / plan->chunk_bytes;
    args.group_bytes = words * 4;
  } else {
    plan->chunk_bytes = kVectorBytes;
    args.units = is_sign(problem) ? words * 4 : ceil_div(shape.in_channels_per_group(), 8);
    args.group_bytes = shape.in_channels_per_group() * 2;
    if (!is_half(problem)) planes = kBfloatTerms + (is_sign(problem) ? 0 : kBfloatTermsOfHalf);
  }
  args.units_divider = FastDivider::of(args.units);
  args.taps_divider = FastDivider::of(shape.taps());
  args.kernel_width_divider = FastDivider::of(shape.horizontal.kernel);
  args.k_units = planes * shape.taps() * args.units;
}

// The grid, and what of it depends on the tile. False where a grid cannot be that large.
bool plan_grid(const ConvProblem& problem, ConvPlan* plan) {
  const ConvShape& shape = problem.shape;
  ConvArgs& args = plan->conv;
  args.out_height = shape.vertical.out_size();
  args.out_width = shape.horizontal.out_size();
  args.pixels = std::int64_t{1} * shape.batch * args.out_height * args.out_width;
  bool fits = false;
  const Tactic& tactic = plan->tactic;
  visit_block(tactic.family, problem.type, tactic.tile, plan->chunk_bytes, [&](auto tag) {
    using Block = typename decltype(tag)::Type;
    const std::int64_t row_tiles = ceil_div<std::int64_t>(args.pixels, Block::kRows);
    args.column_tiles = ceil_div(shape.out_channels_per_group(), Block::kColumns);
    args.k_tiles = ceil_div(args.k_units, Block::kChunks);
    const std::int64_t columns = std::int64_t{args.column_tiles} * shape.group;
    fits = row_tiles <= kMostBlocks / columns && plan->prologue.blocks <= kMostBlocks / 2;
    args.row_tiles = static_cast<std::int32_t>(fits ? row_tiles : 0);
    plan->conv_blocks = fits ? row_tiles * columns : 0;
  });
  return fits;
}

void plan_direct(const ConvProblem& problem, const ConvBuffers& buffers, std::int32_t* accumulators,
                 ConvPlan* plan) {
  const ConvShape& shape = problem.shape;
  DirectArgs& args = plan->direct;
  args.shape = shape;
  args.input = input_view(problem, buffers.x);
  args.weight = buffers.weight;
  args.threshold = buffers.threshold;
  args.codebook = codebook_args(problem, buffers);
  args.epilogue = epilogue_args(problem, buffers, accumulators);
  args.out_height = shape.vertical.out_size();
  args.out_width = shape.horizontal.out_size();
  const std::int64_t channels = args.epilogue.output == Output::kHalfNhwc8
                                    ? padded_channels(shape.out_channels)
                                    : shape.out_channels;
  args.elements = std::int64_t{shape.batch} * args.out_height * args.out_width * channels;
}

}  // namespace

bool make_conv_plan(const ConvProblem& problem, const ConvBuffers& buffers, int tactic,
                    std::int32_t* accumulators, ConvPlan* plan) {
  *plan = ConvPlan{};
  plan->kind = problem.kind;
  plan->type = problem.type;
  plan->tactic = parse_tactic(tactic);
  if (!plan->tactic.ok || !is_consistent(problem)) return false;
  const Family family = plan->tactic.family;
  if (!family_takes(family, problem)) return false;
  if (family == Family::kDirect) {
    plan_direct(problem, buffers, accumulators, plan);
    return plan->direct.elements <= kMostBlocks * kPrologueThreads;
  }
  Workspace workspace(buffers.workspace);
  ConvArgs& conv = plan->conv;
  conv.shape = problem.shape;
  conv.epilogue = epilogue_args(problem, buffers, accumulators);
  conv.b = buffers.weight;
  conv.codebook = codebook_args(problem, buffers);
  plan_prologue(problem, buffers, &workspace, plan);
  plan_depth(problem, plan);
  if (is_binary(problem)) {
    plan_corrections(problem.shape, buffers, family == Family::kXor, &workspace, plan);
  }
  if (family == Family::kDense) plan_expansion(problem, buffers, &workspace, plan);
  plan->workspace_bytes = workspace.used();
  return plan_grid(problem, plan);
}

}  // namespace cuda
}  // namespace bitexport
