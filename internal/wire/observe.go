package wire

import (
	"context"
	"net"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
)

// Sent reports that the request of the attempt in ctx, if there is one, was handed to gRPC's transport. It is for what
// observes requests in the place of gRPC, such as a simulated server.
func Sent(ctx context.Context) {
	if a := attemptOf(ctx); a != nil {
		a.sent.Store(true)
	}
}

// SentTo reports the address of the member that the attempt in ctx, if there is one, is sent to.
func SentTo(ctx context.Context, addr net.Addr) {
	if a := attemptOf(ctx); a != nil {
		a.peer.Store(&peer.Peer{Addr: addr})
	}
}

// PeerAddr returns the address of the peer of a call or a stream, given its context, or "" if it is
// unknown.
func PeerAddr(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// peerObserver tells an attempt which member it is sent to. gRPC asks it for credentials whenever it begins a stream on a
// connection, with a context that names the peer. It has none. A stats handler would learn the same, and whether a request
// was sent as well, but makes gRPC allocate twenty objects in each call.
type peerObserver struct{}

var _ credentials.PerRPCCredentials = peerObserver{}

// GetRequestMetadata returns nothing.
func (peerObserver) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if a := attemptOf(ctx); a != nil {
		if p, ok := peer.FromContext(ctx); ok {
			a.peer.Store(p)
		}
	}
	return nil, nil //nolint:nilnil // no credentials are no error
}

// RequireTransportSecurity returns false: there is nothing to keep secret.
func (peerObserver) RequireTransportSecurity() bool { return false }

// observeSent returns the options of a call that report to a once the request has been encoded, which gRPC does when it has
// begun a stream on a connection, and not before.
func observeSent(a *Attempt, opts []grpc.CallOption) []grpc.CallOption {
	for _, o := range opts {
		switch o.(type) {
		case grpc.ForceCodecV2CallOption, grpc.ForceCodecCallOption, grpc.ContentSubtypeCallOption:
			a.sent.Store(true) // somebody has a codec of their own, which reports nothing
			return opts
		}
	}
	return append(slices.Clip(opts), grpc.ForceCodecV2(sentCodec{a}))
}

// sentCodec is gRPC's codec for protocol buffers. It reports to an attempt that a request was encoded.
type sentCodec struct{ attempt *Attempt }

// Marshal encodes and reports.
func (c sentCodec) Marshal(v any) (mem.BufferSlice, error) {
	c.attempt.sent.Store(true)
	return encoding.GetCodecV2(proto.Name).Marshal(v)
}

// Unmarshal decodes.
func (c sentCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
}

// Name is empty, so that the content type of a request is the one that it has without a codec of its own.
func (sentCodec) Name() string { return "" }
