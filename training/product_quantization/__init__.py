"""Product quantization of ResNets: activation-weighted EM, then distillation of the codebooks.

Stock et al., "And the Bit Goes Down: Revisiting the Quantization of Neural Networks", ICLR 2020.
"""
