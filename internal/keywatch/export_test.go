package keywatch

import "time"

// ProbeAfter sets how long a stream may be quiet before it is tried. Before the first use.
func (w *Watcher) ProbeAfter(d time.Duration) { w.idleProbeInterval = d }
