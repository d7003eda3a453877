// How likely does the model find a response?  score ID QUESTION RESPONSE
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"time"

	"example.com/burnish-client/client"
	commonv1 "example.com/burnish-client/gen/burnish/api/common/v1"
	scoringv1 "example.com/burnish-client/gen/burnish/api/scoring/v1"
)

// float32s reads little-endian float32, on a machine of any byte order.
func float32s(data []byte) ([]float32, error) {
	numbers := make([]float32, len(data)/4)
	err := binary.Read(bytes.NewReader(data), binary.LittleEndian, numbers)
	return numbers, err
}

func main() {
	log.SetFlags(0)
	connection, err := client.Dial(cmp.Or(os.Getenv("BURNISH_SCORING_ENDPOINT"), "127.0.0.1:50051"))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	id, question, response := os.Args[1], os.Args[2], os.Args[3]

	request := &scoringv1.ScoreSamplesRequest{
		Model: &commonv1.ModelRef{}, // whatever the server holds; name the weights by Uri and Digest where it matters which
		Samples: []*commonv1.Sample{{Id: id, Messages: []*commonv1.Message{
			{Role: commonv1.Role_ROLE_USER, Content: question},
			{Role: commonv1.Role_ROLE_ASSISTANT, Content: response},
		}}},
		ReturnTokens: true,
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	scoring := scoringv1.NewScoringServiceClient(connection)
	reply, err := client.Retrying(ctx, func() (*scoringv1.ScoreSamplesResponse, error) {
		return scoring.ScoreSamples(ctx, request)
	})
	if err != nil {
		failure := client.ReadError(err)
		log.Fatalln(failure.Code, failure.Reason, failure.Fields, failure.Message)
	}
	for _, score := range reply.GetScores() {
		if score.GetStatus().GetCode() != 0 {
			fmt.Println(score.GetSampleId(), score.GetStatus().GetReason(), score.GetStatus().GetMessage())
			continue
		}
		logprobs, err := float32s(score.GetTurns()[0].GetLogprobs())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(score.GetSampleId(), score.GetMeanNll(), score.GetPerplexity(), logprobs)
	}
}
