package lease

// Metrics are those of Stats.
var Metrics = metrics
