package main

// The workloads that find mutants.
const (
	kvWorkload    = "TestSim_WritesTakeEffectAsReported"
	leaseWorkload = "TestSim_LeasesEndLate"
	keyWorkload   = "TestSim_KeysComeBack"
	lockWorkload  = "TestSim_LocksExcludeAndServe"
	orderWorkload = "TestSim_LocksServeInOrder"
	shareWorkload = "TestSim_SharedLocksExcludeAndServe"
	watchWorkload = "TestSim_WatchesDeliverTheHistory"
	cacheWorkload = "TestSim_CachesBoundStaleness"

	discoveryWorkload = "TestSim_DiscoveryIsNeverBlind"
	configWorkload    = "TestSim_ConfigShowsGoodStates"
	programWorkload   = "TestSim_ProgramLeavesNothingBehind"
)

// mutant is a defect that the simulation must find.
type mutant struct {
	name, defect string
	file         string // relative to the root of the module
	old, text    string // old occurs once in the file, in the body of a function; text replaces it
	workload     string
	seeds        int    // the workload must fail with one of the seeds from 1 to this one
	message      string // a regular expression for the message of the checker
}

// all lists the mutants.
var all = []mutant{
	// kv and retry
	{
		"kv-guard", "the guard of a write is not sent",
		"kv/mutation.go", `cmps = append(slices.Clip(cmps), g.compares...)`, `_ = g`,
		leaseWorkload, 20, `was written at \d+ under the guard of a session whose lease ended`,
	},
	{
		"once-compare", "WithOnce does not compare its slot",
		"kv/mutation.go", `cmps = append(slices.Clip(cmps), s.unchangedCmp())`, `_ = s.unchangedCmp()`,
		kvWorkload, 12, `took effect 2 times|took effect at \d+, and returned`,
	},
	{
		"retry-unguarded", "an unguarded write is sent again after its answer was lost",
		"internal/retry/run_retry.go", `return r.call.AtMostOnce // until the outcome is known`, `return true`,
		kvWorkload, 60, `took effect 2 times`,
	},
	{
		"retry-create", "a create without a slot is sent again after its answer was lost",
		"kv/mutation.go", `AtMostOnce: m.baseRevision > 0 || s != nil}`, `AtMostOnce: true}`,
		kvWorkload, 12, `took effect 2 times|took effect at \d+, and returned`,
	},
	{
		"hedge-answer", "the first answer of a hedged write counts, and the second one is ignored",
		"kv/mutation.go", `case others == retry.OthersNotApplied:
		return out, true, guardErr`, `case others != retry.OthersUnknown:
		return out, true, guardErr`,
		kvWorkload, 80, `took effect at \d+, and returned|took effect 2 times`,
	},
	{
		"hedge-unguarded", "every slow write has a second attempt, also one that nothing fences",
		"internal/retry/engine.go", `return (c.Read || c.AtMostOnce) && e.Observed`, `return e.Observed`,
		kvWorkload, 12, `took effect 2 times`,
	},
	{
		"unknown-as-refused", "a write whose answer was lost is reported as not applied",
		"internal/retry/run_retry.go", "	if r.ambiguous {\n\t\tout.Err = fmt", "	if false {\n\t\tout.Err = fmt",
		kvWorkload, 12, `took effect at \d+, and returned`,
	},
	{
		"timeout-as-refused", "errors that etcd does not document count as refusals",
		"internal/retry/classify.go", `return Ambiguous, errs.Unavailable`, `return Retryable, errs.Unavailable`,
		kvWorkload, 20, `took effect 2 times|took effect at \d+, and returned`,
	},
	{
		"resolve-own-write", "an own write whose answer was lost counts as a conflict",
		"kv/mutation.go", `if bytes.Equal(next.GetValue(), m.value) {`, `if false {`,
		kvWorkload, 40, `took effect at \d+, and returned`,
	},
	{
		"transact-reads", "a transaction does not compare the keys that it has read",
		"kv/tx_commit.go", `m.cond = append(m.cond, clientv3.Compare(clientv3.ModRevision(key), "=", t.readRevisions[key]))`, `_ = key`,
		kvWorkload, 10, `the sum of all accounts|are not those of its receipt`,
	},
	{
		"create-exists", "a create does not compare that the key is absent",
		"kv/put.go", `cmp = clientv3.Compare(clientv3.CreateRevision(""), "=", 0)`, `cmp = clientv3.Compare(clientv3.CreateRevision(""), ">", -1)`,
		kvWorkload, 10, `create of .* took effect after revision`,
	},
	{
		"serializable-get", "reads of one key are not linearizable",
		"kv/store.go", `op := clientv3.OpGet("", opts...)`, `op := clientv3.OpGet("", append(opts, clientv3.WithSerializable())...)`,
		kvWorkload, 20, `get of .* returned revision`,
	},
	// lease
	{
		"renewal-answer", "the deadline counts from the answer to a renewal",
		"lease/renew_loop.go", `r.extend(sentAt, ttl)`, `r.extend(time.Now(), ttl)`,
		leaseWorkload, 60, `the lease of .* (has )?ended`,
	},
	{
		"grant-answer", "the deadline counts from the answer to a grant",
		"lease/manager_grant.go", `res.id, res.ttl = clientv3.LeaseID(r.GetID()), time.Duration(r.GetTTL())*time.Second`,
		`res.id, res.ttl, res.sentAt = clientv3.LeaseID(r.GetID()), time.Duration(r.GetTTL())*time.Second, time.Now()`,
		leaseWorkload, 80, `the lease of .* (has )?ended`,
	},
	{
		"deadline-late", "the deadline is half a TTL too late",
		"lease/deadline.go", `at := sentAt.Add(ttl - margin(ttl))`, `at := sentAt.Add(ttl + ttl/2)`,
		leaseWorkload, 20, `the lease of .* (has )?ended`,
	},
	{
		"session-guard", "the guard of a session holds whatever lease its key is on",
		"lease/session_guard.go", "	onLease := clientv3.Compare(clientv3.LeaseValue(s.guard.key), \"=\", s.id)\n\treturn kv", "	onLease := clientv3.Compare(clientv3.LeaseValue(s.guard.key), \">\", -1)\n\treturn kv",
		leaseWorkload, 30, `under the guard of a session whose lease ended`,
	},
	{
		"key-drift", "a key that has changed is not read before it is restored",
		"lease/key_reconcile.go", `k.reconcile(k.ctx, "restore key", true)`, `k.reconcile(k.ctx, "restore key", false)`,
		keyWorkload, 10, `keys that are not as they should be|keys that did not stay`,
	},
	{
		"key-lost-lease", "a key is restored on the lease that it was lost with",
		"lease/key_restore.go", `s != nil && s.Err() == nil {`, `s != nil {`,
		keyWorkload, 12, `keys that are not as they should be`,
	},
	{
		"key-sweep", "a key that could not be deleted when it was closed is not swept",
		"lease/key_sweep.go", `if k.closeErr != nil || ks.maybeCreatedLate {`, `if false && ks.maybeCreatedLate {`,
		keyWorkload, 80, `is "\d+", and closed|is there after it was closed`,
	},
	{
		"key-close", "Close of a key does not delete it",
		"lease/key_restore.go", `Then(del).Else(get)`, `Then([]clientv3.Op{get, del}[0]).Else(get)`,
		keyWorkload, 20, `is "\d+", and closed|is there after it was closed|cannot be opened`,
	},
	// lock
	{
		"lock-blocker", "a waiter overtakes the entry directly ahead of it",
		"lock/waiter.go", `case len(blockers) > 0:`, `case len(blockers) > 1:`,
		lockWorkload, 10, `acquired with token \d+ while`,
	},
	{
		"lock-token", "the token of a grant is the create revision of its key",
		"lock/waiter.go", `w.modRev, w.token, w.blockers = mod, ahead.rev, nil`, `w.modRev, w.token, w.blockers = mod, w.createRev, nil`,
		lockWorkload, 12, `token \d+ of .* after \d+|took effect after one with`,
	},
	{
		"lock-turn-token", "a hold that was handed over keeps the token",
		"lock/local_queue.go", `w.token = w.modRev`, `_ = w.modRev`,
		lockWorkload, 10, `token \d+ of .* after \d+`,
	},
	{
		"lock-sweep", "keys that may yet be created are not swept",
		"lock/key.go", "	k.addToSweeper()\n\treturn true", "	return true",
		lockWorkload, 12, `waiters were served within`,
	},
	{
		"lock-nonce", "an own key is used again",
		"lock/key.go", `l.lastNonce.Add(1)`, `l.lastNonce.Load()`,
		lockWorkload, 20, `acquired with token \d+ while|token \d+ of .* after \d+|waiters were served within`,
	},
	{
		"lock-order", "the last goroutine that waits is served first",
		"lock/local_queue.go", "	next := n.followers[0]\n\tn.followers = slices.Delete(n.followers, 0, 1)", "	last := len(n.followers) - 1\n\tnext := n.followers[last]\n\tn.followers = slices.Delete(n.followers, last, last+1)",
		orderWorkload, 10, `of the same process`,
	},
	{
		"lock-reader", "a reader overtakes the writers ahead of it",
		"lock/admission.go", `if !ahead[i].hasSuffix(readerSuffix) {`, `if false {`,
		shareWorkload, 10, `rw: .* acquired \d+, and then`,
	},
	{
		"lock-weight", "permits of a semaphore weigh 1, whatever their weight",
		"lock/admission.go", `			room -= w`, `			room--`,
		shareWorkload, 10, `semaphore: .* acquired \d+, and then`,
	},
	{
		"lock-permit-guard", "the guard of a permit holds after its release",
		"lock/hold.go", `clientv3.Compare(clientv3.CreateRevision(key), "=", h.w.createRev)`, `clientv3.Compare(clientv3.CreateRevision(key), ">", -1)`,
		shareWorkload, 20, `a write of \d+ took effect at`,
	},
	{
		"lock-multi-order", "several mutexes are locked in the order in which they were given",
		"lock/multi.go", `	slices.SortFunc(m.mutexes, func(a, b *Mutex) int { return strings.Compare(a.kind.prefix, b.kind.prefix) })`, `	_ = strings.Compare`,
		shareWorkload, 10, `waiters were served within`,
	},
	// watch
	{
		"watch-resume", "a watch resumes one revision too late",
		"watch/position.go", `return p.rev + 1`, `return p.rev + 2`,
		watchWorkload, 10, `committed was|was not delivered|the consumer has`,
	},
	{
		"watch-from-now", "a watch that is opened again begins at the current revision",
		"watch/broadcaster_run.go", "	if from.reaches(goal) {\n\t\tb.setCompleteAt", "	if from = goal; true {\n\t\tb.append(nil, goal)\n\t\tb.setCompleteAt",
		watchWorkload, 20, `committed was|was not delivered|the consumer has`,
	},
	{
		"watch-progress", "a progress notification counts for the next revision too",
		"watch/broadcaster_run.go", `to = from.advance(from.atRevision(resp.Header.GetRevision()))`, `to = from.advance(from.atRevision(resp.Header.GetRevision() + 1))`,
		watchWorkload, 12, `a progress batch at|when \d+ is the last|committed was|the consumer has`,
	},
	{
		"watch-deletes", "a resync does not report the keys that were deleted meanwhile",
		"watch/subscriber_list.go", `for _, key := range s.index.deletedKeys() {`, `for _, key := range s.index.deletedKeys()[:0] {`,
		watchWorkload, 12, `the consumer has`,
	},
	{
		"watch-coalesce", "coalescing keeps the first change of a key instead of the last one",
		"watch/coalescer.go", `		f.latest[e.Key] = coalescedChange{Event: *e, changes: old.changes + 1, order: f.total}`, "		if old.changes++; !ok {\n\t\t\told = coalescedChange{Event: *e, changes: 1, order: f.total}\n\t\t}\n\t\tf.latest[e.Key] = old",
		watchWorkload, 12, `the coalesced batch|the consumer has|committed was`,
	},
	{
		"watch-lag", "a consumer that has lagged behind continues at the end of the log",
		"watch/subscriber.go", `s.advance(s.cursor.completeTo)`, `s.advance(logEnd)`,
		watchWorkload, 12, `committed was|was not delivered|the consumer has`,
	},
	{
		"watch-handover", "a watch that has caught up moves before it has read up to where the next one begins",
		"watch/broadcaster_catchup.go", `if c.nextWatch != nil && c.position().reaches(c.handoverAt) {`, `if c.nextWatch != nil {`,
		watchWorkload, 200, `committed was|was not delivered|the consumer has`,
	},
	{
		"watch-list-before-watch", "a state watch joins the log after it has listed, and misses what was changed between",
		"watch/subscriber_catchup.go", `compacted, isCompacted := errors.AsType[*watchstream.CompactionError](err)`, `if err == nil {
			_, err = s.join()
		}
		compacted, isCompacted := errors.AsType[*watchstream.CompactionError](err)`,
		watchWorkload, 40, `committed was|was not delivered|the consumer has`,
	},
	{
		"watch-duplicate", "a consumer gets changes from the log that it has got from history",
		"watch/subscriber.go", "	case entry != nil:\n\t\tif s.pos.reaches(entry.pos) {", "	case entry != nil:\n\t\tif false {",
		watchWorkload, 12, `a live batch of revision`,
	},
	{
		"watch-compaction", "the error for compacted history tells a revision up to which not everything was delivered",
		"watch/subscriber_catchup.go", `return &CompactedError{After: s.pos.rev, Oldest: compacted.Oldest}`, `return &CompactedError{After: compacted.Oldest - 1, Oldest: compacted.Oldest}`,
		watchWorkload, 60, `an error that tells of a compaction|nothing is missing between`,
	},
	{
		"watch-skip-compacted", "a watch whose history was compacted continues behind it and reports no error",
		"watch/subscriber_catchup.go", `return &CompactedError{After: s.pos.rev, Oldest: g.oldest}`, `s.advance(s.pos.atRevision(g.oldest - 1))
		return s.catchUp(Resync, false)`,
		watchWorkload, 40, `committed was|was not delivered`,
	},
	{
		"watch-lost-resync", "a state watch does not list after history that was compacted",
		"watch/subscriber_catchup.go", `	default:
		err = s.list(Resync, g.to, false)`, `	default:
		s.advance(g.to)`,
		watchWorkload, 60, `the consumer has`,
	},
	{
		"watch-first-resync", "a resync that comes first has the changes only, and not the whole state",
		"watch/subscriber_list.go", `all := historyChanged || kind == Resync && !s.delivered`, `all := historyChanged`,
		watchWorkload, 10, `the consumer has`,
	},
	{
		"consume-first-resync", "a resync that comes first has the changes only, if Consume has hidden a progress batch",
		"watch/subscriber.go", `s.delivered = s.delivered || b.Kind != Progress`, `s.delivered = true`,
		watchWorkload, 150, `the consumer has`,
	},
	{
		"subscribe-close", "Close of a subscription does not wait for its function",
		"watch/subscription.go", "	s.stop()\n\t<-s.done", "	s.stop()",
		watchWorkload, 10, `the function runs after the subscription has ended`,
	},
	{
		"subscribe-wait", "WaitRevision does not wait for the function",
		"watch/subscriber.go", `if err := s.handler(b); err != nil {`, `if !b.More {
		s.advance(s.pos.atRevision(b.Revision))
	}
	if err := s.handler(b); err != nil {`,
		watchWorkload, 10, `WaitRevision returned at \d+ after`,
	},
	{
		"consume-save-first", "Consume saves a revision before its batch is processed",
		"watch/consume.go", `if err := f(b); err != nil {`, `if !b.More {
			if err := save(ctx, cp, b.Revision); err != nil {
				return opError("consume", s, err)
			}
		}
		if err := f(b); err != nil {`,
		watchWorkload, 10, `a checkpoint at \d+ after`,
	},
	{
		"consume-failed", "Consume saves a revision although its function has failed",
		"watch/consume.go", `if err := f(b); err != nil {`, `if err := f(b); err != nil {
			_ = save(ctx, cp, b.Revision)`,
		watchWorkload, 10, `a checkpoint at \d+ after`,
	},
	{
		"consume-more", "Consume saves a revision of which only a part is processed",
		"watch/consume.go", `if b.More || b.Revision == saved {`, `if b.Revision == saved {`,
		watchWorkload, 12, `a checkpoint at \d+ after`,
	},
	{
		"consume-resume", "Consume continues with the revision of the checkpoint instead of the next one",
		"watch/consume.go", `opts = append(opts, WithAfter(rev))`, `opts = append(opts, WithAfter(rev-1))`,
		watchWorkload, 10, `a (live|progress) batch of revision`,
	},
	// cache
	{
		"cache-fill", "a read of etcd is cached although a newer change has arrived meanwhile",
		"cache/fetch.go", `if err == nil && !f.detached && !c.warming && it.rev >= f.minRevision {`, `if err == nil && !f.detached && !c.warming {`,
		cacheWorkload, 200, `which is older than|before the call`,
	},
	{
		"cache-own-write", "a write through Store does not invalidate the cache",
		"cache/invalidate.go", `if it := c.items.get(key); it != nil && it.rev != rev {`, `if it := c.items.get(key); it == nil && it != nil {`,
		cacheWorkload, 80, `which is older than`,
	},
	{
		"cache-linearizable", "the revision of a linearizable read is read from any member's state",
		"cache/readindex.go", `clientv3.WithCountOnly())`, `clientv3.WithCountOnly(), clientv3.WithSerializable())`,
		cacheWorkload, 20, `linearizable of .* which is older than`,
	},
	{
		"cache-age", "the age of a cache does not grow while its watch is down",
		"cache/freshness.go", `s.lastUpdate = now`, "s.lastUpdate = now\n\ts.advanceAsOf(now.Sub(s.startedAt))",
		cacheWorkload, 12, `before the call`,
	},
	{
		"cache-horizon", "a cache answers from memory although its watch is down for longer than the bound",
		"cache/cache.go", `if !c.isFresh(now, asOf) {
		keep`, `if false {
		keep`,
		cacheWorkload, 20, `before the call`,
	},
	{
		"cache-at-least", "GetAtLeast answers from memory whatever the revision",
		"cache/cache.go", `if it != nil && it.rev < minRev {`, `if false {`,
		cacheWorkload, 12, `at least of .* which is older than`,
	},
	{
		"replica-stale", "a replica answers although its watch is down for longer than the bound",
		"cache/replica.go", `if !r.needsRefresh(now, asOf) || r.ensureFresh(ctx) {`, `if true || !r.needsRefresh(now, asOf) {`,
		cacheWorkload, 40, `replica: get of .* before the call`,
	},
	{
		"replica-own-write", "a replica forgets the own writes that its watch has not delivered",
		"cache/replica.go", `	r.pendingWrites.add(key, rev)
	r.slowPath.Store(true)`, `	r.slowPath.Store(true)`,
		cacheWorkload, 100, `replica: get of .* which is older than`,
	},
	// discovery and config
	{
		"deregister-foreign", "deregistration deletes the key whoever owns it",
		"lease/key_restore.go", `If(unchanged, onLease)`, `If([]clientv3.Cmp{unchanged, onLease}[:0]...)`,
		discoveryWorkload, 20, `was deleted while its registration was open`,
	},
	{
		"deregister-late", "a late deregistration deletes the next registration of its lease",
		"lease/key_restore.go", `If(unchanged, onLease)`, `If([]clientv3.Cmp{unchanged, onLease}[1:]...)`,
		discoveryWorkload, 200, `was deleted while its registration was open`,
	},
	{
		"view-grace", "a view drops all instances that are lost at once",
		"discovery/loss_guard.go", `if g.period == 0 {`, `if g.period >= 0 {`,
		discoveryWorkload, 80, `instances were lost at once|shows no instance anymore|has no address anymore`,
	},
	{
		"view-trickle", "a view counts only the instances that are lost at once, not those lost before",
		"discovery/loss_guard.go", `before := max(l.left+len(l.ids), g.peak(now))`, `before := l.left + len(l.ids)`,
		discoveryWorkload, 10, `instances were lost at once|shows no instance anymore|has no address anymore|Instances returns none|picks none`,
	},
	{
		"view-blind", "a view shows no instances while its watch is down",
		"discovery/service.go", `return s.v.current.Load().instances(f)`, `if !s.v.watch.IsLive() {
		return nil
	}
	return s.v.current.Load().instances(f)`,
		discoveryWorkload, 12, `Instances returns none`,
	},
	{
		"view-status", "a view keeps an instance of which only the status has changed",
		"discovery/instance.go", `i.Weight == j.Weight && i.Status == j.Status &&`, `i.Weight == j.Weight &&`,
		discoveryWorkload, 12, `no state from revision|does not show what is registered`,
	},
	{
		"resolver-repeats", "a resolver passes on a removal twice: when the instance drains and when it is gone",
		"discovery/resolver.go", `if g.updated && (&snapshot{list: list}).equal(&snapshot{list: g.last}) {`, `if false {`,
		discoveryWorkload, 12, `passes on the same instances again`,
	},
	{
		"resolver-debounce", "a resolver does not pass on what changes in the pause after an update",
		"discovery/resolver.go", `		select {
		case <-changed:
		case <-ctx.Done():`, `		select {
		case <-changed:
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():`,
		discoveryWorkload, 10, `does not show what is registered`,
	},
	{
		"drain-undone", "an update after Drain marks the instance as up",
		"discovery/registration.go", `i.Service, i.Status, i.Registered = old.Service, old.Status, old.Registered`, `i.Service, i.Status, i.Registered = old.Service, Up, old.Registered`,
		discoveryWorkload, 10, `does not show what is registered`,
	},
	{
		"register-update", "an update that ends while the key is restored is forgotten",
		"discovery/registration_key.go", "case ctx.Err() != nil: // possibly before it was the call's turn\n\t\tk.updateLater(held)", `case ctx.Err() != nil:`,
		discoveryWorkload, 60, `registered is not what is wanted`,
	},
	{
		"register-lost-lease", "a registration does not come back when its lease was lost: a pool returns sessions that have ended",
		"lease/pool.go", `ended := s.hasEnded(now)`, `ended := false`,
		discoveryWorkload, 10, `registered is not what is wanted`,
	},
	{
		"watch-rewritten", "a watch takes a restored cluster for the one that it has followed",
		"watch/broadcaster_run.go", `return hdr.GetRevision() < b.position().rev || b.history.Load().mismatched(hdr)`, `return false`,
		discoveryWorkload, 20, `no state from revision`,
	},
	{
		"config-delete", "a source keeps the values of keys that were deleted",
		"config/apply.go", `delete(s.layers.etcd, key)`, `_ = key`,
		configWorkload, 20, `which no state from revision`,
	},
	// a program with all packages
	{
		"close-callback", "Close of a view does not wait for the functions that follow it",
		"discovery/service.go", `		s.wg.Wait()
`, ``,
		programWorkload, 12, `a callback of the registry runs after Close`,
	},
	{
		"close-revoke", "Close does not revoke the leases of sessions",
		"lease/manager_close.go", `func(s *Session) error { return s.close(ctx) }`, `func(s *Session) error { s.end(errs.ClosedError("lease manager")); return nil }`,
		programWorkload, 20, `the lease of the shared session is not revoked`,
	},
	{
		"close-unbounded", "Close waits for an answer of etcd for as long as it takes",
		"lease/manager_close.go", `return context.WithTimeout(context.WithoutCancel(c.ctx), closeTimeout)`, `return context.WithCancel(context.WithoutCancel(c.ctx))`,
		programWorkload, 20, `Close of the \w+ took`,
	},
	{
		"list-cancel", "a listing whose stream is still being opened does not end with its context",
		"internal/retry/reader.go", `stop := context.AfterFunc(attempt, cancel)`, `stop := context.AfterFunc(attempt, func() {})`,
		programWorkload, 20, `a listing returned|Close of the \w+ took|calls returned`,
	},
}
