package kv

// Metrics describes the fields of Stats.
var Metrics = metrics
