"""Graph passes, one per file; ``bitexport.graph.lowering`` lists their order."""
