package lock

// Metrics are those of Stats.
var Metrics = metrics
