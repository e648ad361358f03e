// What an op may do to t = S * accumulator + B (+ R) before it writes Y.

#ifndef BITEXPORT_CORE_ACTIVATION_H_
#define BITEXPORT_CORE_ACTIVATION_H_

namespace bitexport {

// kPRelu: Y = (t >= 0 ? t : slope * t) + shift, with a slope and a shift per output channel.
// kClip:  Y = t < low ? low : t > high ? high : t, so that a NaN stays one.
//
// Each operation rounds to float32, as those of the op's function body do.
enum class Activation { kNone, kPRelu, kClip };

}  // namespace bitexport

#endif  // BITEXPORT_CORE_ACTIVATION_H_
