-- The ledger, version 1. What is true of content (a sample, a score) is keyed by content and shared by all runs in
-- this file; what happened in a run is keyed by run and round. Rounds count from 1; the data after the last round of
-- refinement is round N + 1. Rows of content tables are written once and never updated.

-- One run of one recipe.
CREATE TABLE run (
    run_id          VARCHAR PRIMARY KEY,      -- recipe, '-', and 12 hex digits of the digest of data and settings
    recipe          VARCHAR NOT NULL,
    config          JSON NOT NULL,            -- the resolved configuration
    burnish_version VARCHAR NOT NULL,
    source          JSON,                     -- how the data came (formats.SourceInfo, warnings); set by step `read`
    created_at      TIMESTAMPTZ NOT NULL,
    finished_at     TIMESTAMPTZ               -- set when the last step is done
);

-- The source's rows as they came, so that what was not changed goes out as it came in.
CREATE TABLE source_row (
    run_id   VARCHAR NOT NULL,
    position INTEGER NOT NULL,                -- from 0; the same as in round 1
    record   VARCHAR NOT NULL,                -- all columns, as JSON text (VARCHAR: NaN and column order survive)
    PRIMARY KEY (run_id, position)
);

-- Content-addressed conversations: sample_hash is the sha256 (hex) of the canonical JSON of `messages`.
CREATE TABLE sample (
    sample_hash VARCHAR PRIMARY KEY,
    messages    JSON NOT NULL                 -- [{"role": "...", "content": "..."}, ...]
);

-- The data set as it stands at the start of a round.
CREATE TABLE dataset (
    run_id     VARCHAR NOT NULL,
    round      INTEGER NOT NULL,
    digest     VARCHAR NOT NULL,              -- sha256 over the ordered (row_id, sample_hash) pairs
    num_rows   INTEGER NOT NULL,
    PRIMARY KEY (run_id, round)
);
CREATE TABLE dataset_row (
    run_id        VARCHAR NOT NULL,
    round         INTEGER NOT NULL,
    position      INTEGER NOT NULL,           -- from 0
    row_id        VARCHAR NOT NULL,           -- stable through rounds; the source's own id where it has one
    sample_hash   VARCHAR NOT NULL,
    origin        VARCHAR NOT NULL,           -- what made the text: source | simplify | improve | diversify
    parent_row_id VARCHAR,                    -- the row that a new row was made from; NULL for the source's rows
    source_row_id VARCHAR NOT NULL,           -- the source row that it goes back to, whose columns it carries
    PRIMARY KEY (run_id, round, row_id)
);

-- Loss of a sample under some weights. Failed items have a code and no numbers.
CREATE TABLE score (
    sample_hash     VARCHAR NOT NULL,
    model_digest    VARCHAR NOT NULL,
    template_digest VARCHAR NOT NULL,
    mean_nll        DOUBLE,                   -- nats per response token
    sum_nll         DOUBLE,
    num_tokens      INTEGER,
    turns           JSON,                     -- [{"message_index": 1, "mean_nll": ..., "num_tokens": ...}, ...]
    code            INTEGER NOT NULL,
    reason          VARCHAR NOT NULL,
    message         VARCHAR NOT NULL,
    retryable       BOOLEAN NOT NULL,         -- failed, but asked for again as long as its step is not done
    engine          VARCHAR NOT NULL,
    PRIMARY KEY (sample_hash, model_digest, template_digest)
);

-- One self-alignment rating. `value` is NULL where the judge gave no number; it is never filled in.
CREATE TABLE rating (
    sample_hash     VARCHAR NOT NULL,
    model_digest    VARCHAR NOT NULL,
    template_digest VARCHAR NOT NULL,
    prompt_digest   VARCHAR NOT NULL,
    params_digest   VARCHAR NOT NULL,
    dimension       VARCHAR NOT NULL,         -- clarity | completeness | factuality
    target          VARCHAR NOT NULL,         -- prompt | response
    value           DOUBLE,                   -- [0, 10]
    code            INTEGER NOT NULL,
    reason          VARCHAR NOT NULL,
    message         VARCHAR NOT NULL,
    retryable       BOOLEAN NOT NULL,
    reply           VARCHAR NOT NULL,
    PRIMARY KEY (sample_hash, model_digest, template_digest, prompt_digest, params_digest, dimension, target)
);

-- Which samples a collection holds, or why not.
CREATE TABLE embedding (
    collection   VARCHAR NOT NULL,
    sample_hash  VARCHAR NOT NULL,
    model_digest VARCHAR NOT NULL,
    code         INTEGER NOT NULL,
    reason       VARCHAR NOT NULL,
    message      VARCHAR NOT NULL,
    retryable    BOOLEAN NOT NULL,
    truncated    BOOLEAN NOT NULL,
    PRIMARY KEY (collection, sample_hash)
);

-- Nearest neighbours within a set of distinct samples (set_digest: sha256 over the sorted sample hashes).
CREATE TABLE neighborhood (
    set_digest   VARCHAR NOT NULL,
    model_digest VARCHAR NOT NULL,
    k            INTEGER NOT NULL,
    sample_hash  VARCHAR NOT NULL,
    neighbors    JSON NOT NULL,               -- [{"sample_hash": "...", "cosine": ...}, ...], nearest first
    PRIMARY KEY (set_digest, model_digest, k, sample_hash)
);

-- The threshold drawn on one signal in one round, and the moments it came from.
CREATE TABLE threshold (
    run_id       VARCHAR NOT NULL,
    round        INTEGER NOT NULL,
    axis         VARCHAR NOT NULL,            -- hard | sparse | low_quality
    signal       VARCHAR NOT NULL,            -- loss_pre | loss_post | mean_cosine | quality
    mean         DOUBLE,
    std          DOUBLE,
    m            DOUBLE,                      -- given, or implied by `share`
    tau          DOUBLE,                      -- NULL where too few finite values were there
    share        DOUBLE,                      -- share of rows asked for, (0, 1]; NULL where m was given
    num_tied     INTEGER NOT NULL,            -- with `share`: rows left out because they tie at the threshold
    num_values   INTEGER NOT NULL,
    num_excluded INTEGER NOT NULL,            -- rows without a finite value, kept out of mean and std
    PRIMARY KEY (run_id, round, signal)
);

-- What the policy decided for each row of each round: every row has exactly one line.
CREATE TABLE decision (
    run_id   VARCHAR NOT NULL,
    round    INTEGER NOT NULL,
    row_id   VARCHAR NOT NULL,
    axes     VARCHAR[] NOT NULL,              -- axes that selected it: hard, sparse, low_quality; empty: untouched
    actions  VARCHAR[] NOT NULL,              -- keep | simplify | improve | diversify, one or more
    signals  JSON NOT NULL,                   -- {"loss_pre": ..., "loss_post": ..., "mean_cosine": ..., "quality": ...}
    reasons  JSON NOT NULL,                   -- sentences for people
    hints    VARCHAR[] NOT NULL,              -- for diversify: hashes of the samples to show, nearest first
    PRIMARY KEY (run_id, round, row_id)
);

-- One rewrite asked for: keyed by everything that determines it.
CREATE TABLE rewrite (
    sample_hash    VARCHAR NOT NULL,
    strategy       VARCHAR NOT NULL,          -- simplify | improve | diversify
    context_digest VARCHAR NOT NULL,          -- sha256 over the neighbours' hashes; '' for none
    model_digest   VARCHAR NOT NULL,
    prompt_version VARCHAR NOT NULL,
    params_digest  VARCHAR NOT NULL,
    result_hash    VARCHAR,                   -- NULL where every attempt was rejected
    code           INTEGER NOT NULL,
    reason         VARCHAR NOT NULL,
    message        VARCHAR NOT NULL,
    retryable      BOOLEAN NOT NULL,
    attempts       JSON NOT NULL,             -- [{"rejection", "detail", "prompt_reply", "response_reply"}, ...]
    PRIMARY KEY (sample_hash, strategy, context_digest, model_digest, prompt_version, params_digest)
);

-- Which rewrite each decision of a round asked for: the first six columns after `row_id` are the rewrite's key.
CREATE TABLE refinement (
    run_id         VARCHAR NOT NULL,
    round          INTEGER NOT NULL,
    row_id         VARCHAR NOT NULL,
    sample_hash    VARCHAR NOT NULL,
    strategy       VARCHAR NOT NULL,
    context_digest VARCHAR NOT NULL,
    model_digest   VARCHAR NOT NULL,
    prompt_version VARCHAR NOT NULL,
    params_digest  VARCHAR NOT NULL,
    PRIMARY KEY (run_id, round, row_id, strategy)
);

-- Models that a run uses: role 'base' and 'refiner' in round 0, 'trained' in round t; the refiner is written down when
-- it is first used.
CREATE TABLE model (
    run_id       VARCHAR NOT NULL,
    round        INTEGER NOT NULL,
    role         VARCHAR NOT NULL,
    uri          VARCHAR NOT NULL,
    digest       VARCHAR NOT NULL,
    training_run VARCHAR,                     -- run_id at the training service
    train_loss   DOUBLE,
    eval_loss    DOUBLE,                      -- on the held-out data, by the scoring service; nats per response token
    detail       JSON,                        -- trained: num_samples, skipped ids, num_tokens, seconds, eval_loss
    PRIMARY KEY (run_id, round, role)
);

-- What the training service reported while it trained.
CREATE TABLE training_event (
    run_id            VARCHAR NOT NULL,
    round             INTEGER NOT NULL,
    training_run      VARCHAR NOT NULL,
    number            BIGINT NOT NULL,        -- the service's own, from 1
    reported_at       TIMESTAMPTZ NOT NULL,
    state             VARCHAR NOT NULL,
    step              BIGINT NOT NULL,
    total_steps       BIGINT NOT NULL,
    loss              DOUBLE,                 -- nats per response token
    learning_rate     DOUBLE,
    tokens_per_second DOUBLE,
    eval_loss         DOUBLE,
    PRIMARY KEY (run_id, round, training_run, number)
);

-- The steps of a run, in the order they are taken.
CREATE TABLE step (
    run_id      VARCHAR NOT NULL,
    round       INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    name        VARCHAR NOT NULL,             -- of Middo, round 0: read, evaluate; round t: train, evaluate, score_pre,
                                              -- score_post, embed, judge, decide, refine, assemble; round N + 1: train,
                                              -- evaluate; of the other recipes: later versions
    state       VARCHAR NOT NULL,             -- running | done | failed
    done        INTEGER NOT NULL,             -- items done
    total       INTEGER NOT NULL,             -- items in all
    reused      INTEGER NOT NULL,             -- items that the ledger already knew
    seconds     DOUBLE NOT NULL,              -- work time, interruptions left out
    started_at  TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ,
    detail      JSON NOT NULL,                -- what its findings are keyed by: model version, prompt digest, params
    PRIMARY KEY (run_id, round, name)
);
