package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// PKI is a set of certificates, good and bad, as PEM files in a temporary directory.
type PKI struct {
	CAFile      string // of all certificates below, where not said otherwise
	OtherCAFile string // of a second authority, which nobody has reason to trust

	Server    KeyPair // for localhost and 127.0.0.1
	Expired   KeyPair // likewise, until an hour ago
	WrongName KeyPair // for a host of another name

	Client      KeyPair // with the common name "client"
	OtherClient KeyPair // likewise, by the second authority

	t      testing.TB
	dir    string
	ca     *authority
	rogue  *authority
	serial int64
}

// authority signs.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Certs makes a set of certificates. They are valid for a day and gone when the test ends.
func Certs(tb testing.TB) *PKI {
	tb.Helper()
	p := &PKI{t: tb, dir: tb.TempDir()}
	p.ca, p.CAFile = p.authority("ca")
	p.rogue, p.OtherCAFile = p.authority("other-ca")
	p.Server = p.issue("server", p.ca, serverFor("localhost"))
	p.Expired = p.issue("expired", p.ca, serverFor("localhost"), func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	p.WrongName = p.issue("wrong-name", p.ca, serverFor("elsewhere.example"))
	p.Client = p.IssueClient("client")
	p.OtherClient = p.issue("other-client", p.rogue, clientNamed("client"))
	return p
}

// IssueClient makes one more client certificate, by the first authority, with the given common
// name.
func (p *PKI) IssueClient(name string) KeyPair {
	p.t.Helper()
	return p.issue("client-"+name, p.ca, clientNamed(name))
}

// Renew replaces the certificate and the key of a pair in place by new ones, as tools for
// certificates do. The pair must be Server, or one of [PKI.IssueClient].
func (p *PKI) Renew(pair KeyPair) {
	p.t.Helper()
	name := strings.TrimSuffix(filepath.Base(pair.CertFile), ".pem")
	edit := clientNamed(strings.TrimPrefix(name, "client-"))
	if pair == p.Server {
		edit = serverFor("localhost")
	}
	fresh := p.issue(name+".new", p.ca, edit)
	must(p.t, os.Rename(fresh.KeyFile, pair.KeyFile))
	must(p.t, os.Rename(fresh.CertFile, pair.CertFile))
}

// ClientConfig trusts the first authority and presents the certificate, or none if pair is empty.
func (p *PKI) ClientConfig(pair KeyPair) *tls.Config {
	p.t.Helper()
	pemCA, err := os.ReadFile(p.CAFile)
	must(p.t, err)
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	cfg.RootCAs.AppendCertsFromPEM(pemCA)
	if pair != (KeyPair{}) {
		cert, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
		must(p.t, err)
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg
}

// TLS makes a server present the certificate and believe clients without one.
func (p *PKI) TLS(server KeyPair) TLS {
	p.t.Helper()
	return TLS{Server: server, Client: p.ClientConfig(KeyPair{})}
}

// MutualTLS makes a server present the certificate and refuse clients that the first authority does
// not know.
func (p *PKI) MutualTLS(server KeyPair) TLS {
	p.t.Helper()
	return TLS{Server: server, TrustedCAFile: p.CAFile, ClientCertAuth: true, Client: p.ClientConfig(p.Client)}
}

func serverFor(host string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.DNSNames = []string{host}
		if host == "localhost" {
			c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		}
	}
}

func clientNamed(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		c.Subject.CommonName = name
	}
}

func (p *PKI) authority(name string) (*authority, string) {
	p.t.Helper()
	isCA := func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	}
	a := &authority{}
	pair := p.write(name, a, a, isCA)
	return a, pair.CertFile
}

func (p *PKI) issue(name string, by *authority, edit ...func(*x509.Certificate)) KeyPair {
	p.t.Helper()
	return p.write(name, &authority{}, by, edit...)
}

// write makes a certificate and its key, signed by another one or by itself, and stores both.
func (p *PKI) write(name string, who, by *authority, edit ...func(*x509.Certificate)) KeyPair {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(p.t, err)
	p.serial++
	who.key = key
	who.cert = &x509.Certificate{
		SerialNumber: big.NewInt(p.serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	for _, e := range edit {
		e(who.cert)
	}
	der, err := x509.CreateCertificate(rand.Reader, who.cert, by.cert, &key.PublicKey, by.key)
	must(p.t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(p.t, err)
	return KeyPair{
		CertFile: p.store(name+".pem", "CERTIFICATE", der),
		KeyFile:  p.store(name+"-key.pem", "PRIVATE KEY", keyDER),
	}
}

func (p *PKI) store(name, kind string, der []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	must(p.t, os.WriteFile(path, text, 0o600))
	return path
}
