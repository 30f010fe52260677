package kv

// Metrics are those of Stats.
var Metrics = metrics
