package config

// Metrics are those of Stats.
var Metrics = metrics
