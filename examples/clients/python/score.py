"""How likely does the model find a response?  python score.py ID QUESTION RESPONSE"""

import sys

import burnish

sample_id, question, response = sys.argv[1:]
messages = (burnish.Message(burnish.Role.USER, question), burnish.Message(burnish.Role.ASSISTANT, response))
try:
    settings = burnish.load_settings()  # BURNISH_SCORING_ENDPOINT, BURNISH_TLS_CA, BURNISH_TOKEN, or burnish.toml
    address = settings.scoring_endpoint or "127.0.0.1:50051"
    with burnish.Client(address, options=settings.client_options) as client:
        batch = client.scoring.score([burnish.Sample(sample_id, messages)], return_tokens=True)
except burnish.UsageError as error:  # nothing was sent: a setting or an argument is wrong
    sys.exit(str(error))
except burnish.ServiceError as error:
    sys.exit(f"{error.code} {error.reason} {error}")
for score in batch.scores:
    if score.status.ok:
        print(score.sample_id, score.mean_nll, score.perplexity, score.turns[0].logprobs)
    else:
        print(score.sample_id, score.status.reason, score.status.message)
