-- Version 2: what CLEAR finds out and decides. Confidence, candidates and preferences are content, shared by all runs of a
-- ledger, as scores are. For CLEAR `threshold.axis` is low_confidence, `threshold.signal` and the keys of
-- `decision.signals` are confidence | consistency | reflection | likelihood | rating (and preference); `decision.actions` is
-- one of keep | correct | drop | unscored, `decision.hints` the sample that takes a corrected row's place;
-- `dataset_row.origin` may be `correct`. The steps of a round are score_pre or judge or confidence, filter, train,
-- evaluate, propose, compare, decide, assemble.

-- What some weights believe of a sample's last response: the parts that a confidence is combined from.
CREATE TABLE confidence (
    sample_hash      VARCHAR NOT NULL,
    model_digest     VARCHAR NOT NULL,
    template_digest  VARCHAR NOT NULL,
    prompt_digest    VARCHAR NOT NULL,        -- of the prompt files, and of the NLI model where one took part
    params_digest    VARCHAR NOT NULL,        -- tier, number of answers, how they are sampled
    verdicts         JSON,                    -- [[p(correct), p(incorrect), p(not sure), covered mass], ...]
    answers          JSON,                    -- [{"text", "similarity", "exact_match", "reply", "reason"}, ...]
    mean_nll         DOUBLE,                  -- nats per response token
    mean_probability DOUBLE,
    code             INTEGER NOT NULL,
    reason           VARCHAR NOT NULL,
    message          VARCHAR NOT NULL,
    retryable        BOOLEAN NOT NULL,
    PRIMARY KEY (sample_hash, model_digest, template_digest, prompt_digest, params_digest)
);

-- One response that some weights gave to a prompt.
CREATE TABLE response (
    prompt_hash     VARCHAR NOT NULL,         -- sha256 of the canonical JSON of the conversation up to the user's message
    model_digest    VARCHAR NOT NULL,
    template_digest VARCHAR NOT NULL,
    params_digest   VARCHAR NOT NULL,         -- how it is sampled, and how many are
    number          INTEGER NOT NULL,         -- from 1; 1 with a code where nothing was said
    text            VARCHAR,
    finish_reason   VARCHAR,                  -- stop | length
    token_ids       INTEGER[],
    logprobs        FLOAT[],                  -- the generator's own, nats, before any sampling parameter
    code            INTEGER NOT NULL,
    reason          VARCHAR NOT NULL,
    message         VARCHAR NOT NULL,
    retryable       BOOLEAN NOT NULL,
    PRIMARY KEY (prompt_hash, model_digest, template_digest, params_digest, number)
);

-- Which of two responses to the same prompt some weights prefer, asked in both orders.
CREATE TABLE preference (
    sample_hash      VARCHAR NOT NULL,        -- the conversation with the response that was there
    candidate_hash   VARCHAR NOT NULL,        -- the same prompt with the candidate
    model_digest     VARCHAR NOT NULL,
    template_digest  VARCHAR NOT NULL,
    prompt_digest    VARCHAR NOT NULL,
    orders           JSON,                    -- [[p(response), p(candidate), p(tie), covered mass], ...]: the response in
                                              -- front, then the candidate
    log_length_ratio DOUBLE,                  -- log(words of the candidate / words of the response)
    code             INTEGER NOT NULL,
    reason           VARCHAR NOT NULL,
    message          VARCHAR NOT NULL,
    retryable        BOOLEAN NOT NULL,
    PRIMARY KEY (sample_hash, candidate_hash, model_digest, template_digest, prompt_digest)
);

-- Whether each row of a round passed its filter; written once, before anything is trained on those that did.
CREATE TABLE filtered (
    run_id VARCHAR NOT NULL,
    round  INTEGER NOT NULL,
    row_id VARCHAR NOT NULL,
    passed BOOLEAN,                           -- NULL: it has no value to go by
    PRIMARY KEY (run_id, round, row_id)
);

-- Which candidates were made for each row of a round; (sample of the row, sample with the candidate) names its preference.
CREATE TABLE candidate (
    run_id         VARCHAR NOT NULL,
    round          INTEGER NOT NULL,
    row_id         VARCHAR NOT NULL,
    number         INTEGER NOT NULL,          -- from 1
    candidate_hash VARCHAR,                   -- NULL where nothing was said
    rejection      VARCHAR NOT NULL,          -- same | empty | truncated, or why the service failed; '' where it is compared
    PRIMARY KEY (run_id, round, row_id, number)
);
