package watch

// Metrics are those of Stats.
var Metrics = metrics
