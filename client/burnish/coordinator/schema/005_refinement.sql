-- Version 5: online self-refinement. For BMO `decision.actions` is one of keep | drop | refine | validate | unread, and
-- `decision.hints` the sample that takes a refined row's place; `dataset_row.origin` may be `refine`. The steps of its
-- rounds are those of BDS, and respond and probe, which are taken again at every pause of round 1's training.

-- What is wrong with a response by the rules of the rewriting service; '' where nothing is, or nobody asked.
ALTER TABLE response ADD COLUMN rejection VARCHAR DEFAULT '';

-- One pause of a round's training, once the model's answers are there.
CREATE TABLE refresh (
    run_id          VARCHAR NOT NULL,
    round           INTEGER NOT NULL,
    step            BIGINT NOT NULL,          -- optimiser steps done
    reason          VARCHAR NOT NULL,         -- schedule | stale
    effective_share DOUBLE,                   -- how much of the answers before still counted
    model_digest    VARCHAR NOT NULL,         -- these three: what its answers are kept under in `response`
    template_digest VARCHAR NOT NULL,
    params_digest   VARCHAR NOT NULL,
    num_questions   INTEGER NOT NULL,
    num_answers     INTEGER NOT NULL,
    num_accepted    INTEGER NOT NULL,
    num_answered    INTEGER NOT NULL,         -- questions with an accepted answer
    entropy         DOUBLE,                   -- nats per token
    length          DOUBLE,                   -- tokens per answer
    distinct_share  DOUBLE,                   -- different answers per question, against the data's own
    divergence      DOUBLE,                   -- KL from the base model, nats per token
    stopped         VARCHAR NOT NULL,         -- why nothing is learnt from answers from here on; '' where it is
    PRIMARY KEY (run_id, round, step)
);

-- One answer at such a pause.
CREATE TABLE online_response (
    run_id      VARCHAR NOT NULL,
    round       INTEGER NOT NULL,
    step        BIGINT NOT NULL,
    row_id      VARCHAR NOT NULL,
    number      INTEGER NOT NULL,             -- from 1
    prompt_hash VARCHAR NOT NULL,             -- with the refresh's digests and the number, the answer in `response`
    sample_hash VARCHAR,                      -- the conversation that ends in it; NULL where nothing was said
    rejection   VARCHAR NOT NULL,             -- why it is not learnt from; '' where it is
    PRIMARY KEY (run_id, round, step, row_id, number)
);
