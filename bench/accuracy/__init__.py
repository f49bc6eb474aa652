"""How wrong is a bill? A virtual node whose truth is fixed first, then our division and the peers' formulas on it.

Follow a scenario: `scenarios` says what ran, `truth` what it drew, `ours` drives the real Sampler over plain files,
`peers` applies the published formulas to the same counters, `judge` compares, `page` and `chart` write it down.
"""
