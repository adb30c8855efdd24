"""The thin Spark layer: DataFrame plans, Arrow edges and broadcasts; no formulas."""
