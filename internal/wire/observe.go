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

// Sent records that the request of the attempt in ctx, if there is one, was passed to gRPC's
// transport. It is for code that observes requests instead of gRPC, such as a simulated server.
func Sent(ctx context.Context) {
	if a := attemptOf(ctx); a != nil {
		a.sent.Store(true)
	}
}

// SentTo records the address of the member that the attempt in ctx, if there is one, is sent to.
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

// peerObserver records the member that an attempt is sent to. gRPC requests credentials from it
// whenever it opens a stream on a connection, with a context that contains the peer. It returns
// none. A stats handler would get the same, and also whether a request was sent, but makes gRPC
// allocate twenty objects per call.
type peerObserver struct{}

var _ credentials.PerRPCCredentials = peerObserver{}

// GetRequestMetadata records the peer.
func (peerObserver) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if a := attemptOf(ctx); a != nil {
		if p, ok := peer.FromContext(ctx); ok {
			a.peer.Store(p)
		}
	}
	return nil, nil //nolint:nilnil // no credentials are no error
}

// RequireTransportSecurity returns false, because there are no secrets.
func (peerObserver) RequireTransportSecurity() bool { return false }

// observeSent returns opts with a codec that records in a that the request has been encoded. gRPC
// encodes a request after it has opened a stream on a connection, and not before.
func observeSent(a *Attempt, opts []grpc.CallOption) []grpc.CallOption {
	for _, o := range opts {
		switch o.(type) {
		case grpc.ForceCodecV2CallOption, grpc.ForceCodecCallOption, grpc.ContentSubtypeCallOption:
			a.sent.Store(true) // the caller has a codec, which records nothing
			return opts
		}
	}
	return append(slices.Clip(opts), grpc.ForceCodecV2(sentCodec{a}))
}

// sentCodec is gRPC's codec for protocol buffers. It records in an attempt that a request was
// encoded.
type sentCodec struct{ attempt *Attempt }

// Marshal encodes v.
func (c sentCodec) Marshal(v any) (mem.BufferSlice, error) {
	c.attempt.sent.Store(true)
	return encoding.GetCodecV2(proto.Name).Marshal(v)
}

// Unmarshal decodes data into v.
func (c sentCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
}

// Name returns "", so that the content type of a request is the same as without the codec.
func (sentCodec) Name() string { return "" }
