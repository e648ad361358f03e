"""Training of the networks that bitexport reads, with the layers and models of bitexport itself.

``python -m training.demo`` trains a 1-bit network on data that comes with scikit-learn, exports
it, and runs the file. ``python -m training`` trains any recipe. The modules import one way:

    cli | demo -> trainer | product_quantization -> recipe | checkpoints | engine | logs
        -> systems | networks | datasets -> estimators
"""
