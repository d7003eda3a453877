// Package client connects to Burnish's services and reads what their errors say.
package client

import (
	"context"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Dial connects to one server, host:port, or to all replicas of a name, dns:///NAME:PORT. BURNISH_TLS_CA names the
// authorities to trust, BURNISH_TOKEN says who calls.
func Dial(target string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		// Finds out that a server is gone; more often than every 10 s is refused.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)), // Limits.max_message_bytes; gRPC's own is 4 MiB
	}
	transport := insecure.NewCredentials()
	if ca := os.Getenv("BURNISH_TLS_CA"); ca != "" {
		var err error
		if transport, err = credentials.NewClientTLSFromFile(ca, ""); err != nil {
			return nil, err
		}
	}
	if token := os.Getenv("BURNISH_TOKEN"); token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	return grpc.NewClient(target, append(options, grpc.WithTransportCredentials(transport))...)
}

type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true } // never in the clear
