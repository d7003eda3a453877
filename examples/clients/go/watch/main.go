// Follows a training run until it ends.  watch RUN_ID
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"example.com/burnish-client/client"
	trainingv1 "example.com/burnish-client/gen/burnish/api/training/v1"
)

func main() {
	log.SetFlags(0)
	connection, err := client.Dial(cmp.Or(os.Getenv("BURNISH_TRAINING_ENDPOINT"), "127.0.0.1:50051"))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	training := trainingv1.NewTrainingServiceClient(connection)
	request := &trainingv1.WatchRunRequest{RunId: os.Args[1], FromEvent: 1}
	ctx := context.Background()
	run, err := client.Retrying(ctx, func() (*trainingv1.Run, error) { return watch(ctx, training, request) })
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(run.GetRunId(), run.GetState(), run.GetError().GetMessage())
}

// watch prints events until the run has ended, and returns it. It leaves in request where to go on after a break: events
// are kept, and numbered without gaps.
func watch(
	ctx context.Context, training trainingv1.TrainingServiceClient, request *trainingv1.WatchRunRequest,
) (run *trainingv1.Run, err error) {
	stream, err := training.WatchRun(ctx, request)
	if err != nil {
		return nil, err
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return run, nil
		}
		if err != nil {
			return nil, err
		}
		request.FromEvent, run = event.GetEvent()+1, event.GetRun()
		fmt.Println(event.GetEvent(), run.GetState(), run.GetProgress().GetStep(), run.GetProgress().GetLoss())
	}
}
