package discovery

// Metrics are those of Stats.
var Metrics = metrics
