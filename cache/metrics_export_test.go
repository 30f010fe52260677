package cache

// Metrics are those of Stats.
var Metrics = metrics
