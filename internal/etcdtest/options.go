package etcdtest

import "crypto/tls"

// Option changes how [Start] and [StartCluster] run a server.
type Option func(*config)

type config struct {
	flags      []string
	tls        *TLS
	unixSocket bool
	network    bool
	binary     string
}

// WithFlags adds flags of etcd, such as "--auth-token-ttl=2". They come after, and so win over, the
// harness's own.
func WithFlags(flags ...string) Option {
	return func(c *config) { c.flags = append(c.flags, flags...) }
}

// WithUnixSocket makes the server listen for clients on a Unix socket in its data directory instead
// of a loopback port.
func WithUnixSocket() Option {
	return func(c *config) { c.unixSocket = true }
}

// WithNetwork puts a network between the members of a cluster, which the methods of [Cluster]
// tamper with.
func WithNetwork() Option {
	return func(c *config) { c.network = true }
}

// WithBinary makes the server run the etcd at path, whatever the environment says.
func WithBinary(path string) Option {
	return func(c *config) { c.binary = path }
}

// WithTLS makes the server speak TLS to its clients. See [PKI.TLS] and [PKI.MutualTLS].
func WithTLS(t TLS) Option {
	return func(c *config) { c.tls = &t }
}

// TLS is how a server identifies itself and its clients.
type TLS struct {
	Server         KeyPair
	TrustedCAFile  string // whose client certificates are believed
	ClientCertAuth bool   // refuse clients without one

	Client *tls.Config // what the harness's own clients of the server use
}

// KeyPair names the PEM files of a certificate and its key.
type KeyPair struct{ CertFile, KeyFile string }

func (c *config) tlsFlags() []string {
	if c.tls == nil {
		return nil
	}
	flags := []string{"--cert-file=" + c.tls.Server.CertFile, "--key-file=" + c.tls.Server.KeyFile}
	if c.tls.TrustedCAFile != "" {
		flags = append(flags, "--trusted-ca-file="+c.tls.TrustedCAFile)
	}
	if c.tls.ClientCertAuth {
		flags = append(flags, "--client-cert-auth")
	}
	return flags
}
