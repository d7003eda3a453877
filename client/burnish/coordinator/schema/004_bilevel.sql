-- Version 4: weights that are learnt while a model is trained. For BDS `decision.actions` is one of keep | drop | validate
-- | unread, the keys of `decision.signals` are rank, weight, logit. The steps of its rounds are split, train, evaluate,
-- weigh, decide, assemble; round 1 trains the model that weights are learnt with, round 2 the one on what is kept, later
-- ones what that is compared with and have models but no data set of their own.

CREATE TABLE sample_weight (
    run_id VARCHAR NOT NULL,
    round  INTEGER NOT NULL,
    step   BIGINT NOT NULL,                   -- optimiser steps done when the weight was noted
    row_id VARCHAR NOT NULL,
    weight FLOAT NOT NULL,                    -- what the row's loss is multiplied by; 1 before anything is learnt
    logit  FLOAT NOT NULL,
    PRIMARY KEY (run_id, round, step, row_id)
);
