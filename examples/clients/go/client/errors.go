package client

import (
	"cmp"
	"context"
	"log"
	"math/rand"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Failure is what a failed call says: a word for machines, and the fields that are wrong. After RetryAfter, unless it is
// 0, the call may succeed.
type Failure struct {
	Code       codes.Code
	Message    string
	Reason     string
	Fields     []string
	RetryAfter time.Duration
}

// ReadError reads the details of a failed call.
func ReadError(err error) Failure {
	failed := status.Convert(err)
	failure := Failure{Code: failed.Code(), Message: failed.Message()}
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			failure.Reason = detail.GetReason()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				failure.Fields = append(failure.Fields, violation.GetField())
			}
		case *errdetails.RetryInfo:
			failure.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	// A server that is away says no more; one that has stopped under the call leaves it cancelled, without a reason.
	away := failure.Code == codes.Unavailable || failure.Code == codes.Canceled && failure.Reason == ""
	if away && failure.RetryAfter == 0 {
		failure.RetryAfter = time.Second
	}
	return failure
}

// Retrying calls until it succeeds or ctx is done, where trying again can help. Every RPC is safe to repeat.
func Retrying[Reply any](ctx context.Context, call func() (Reply, error)) (Reply, error) {
	for {
		reply, err := call()
		failure := ReadError(err)
		if err == nil || failure.RetryAfter == 0 {
			return reply, err
		}
		log.Printf("%s: trying again in %v", cmp.Or(failure.Reason, failure.Code.String()), failure.RetryAfter)
		select {
		// A little later, so that clients do not all come back at once.
		case <-time.After(failure.RetryAfter + time.Duration(rand.Int63n(int64(failure.RetryAfter)))):
		case <-ctx.Done():
			return reply, err
		}
	}
}
