-- Version 3: what coverage selects. For MADS-style selection `decision.actions` is one of keep | drop | unread,
-- `decision.hints` the row that stands for one that is dropped, the keys of `decision.signals` are rank, gain, cosine. The
-- steps of its round are calibrate, features, select, project, assemble, train, evaluate; rounds from 3 on are random subsets, with
-- models but no data set. With a held size, the rounds of other recipes have the steps calibrate, features, hold too.

-- Where samples lie in the picture of a round's set; how it was made is in the detail of step `project`. Rounds of Middo
-- that seek neighbours have one, and those of CLEAR that hold the set's size.
CREATE TABLE place (
    run_id      VARCHAR NOT NULL,
    round       INTEGER NOT NULL,
    sample_hash VARCHAR NOT NULL,
    x           FLOAT NOT NULL,
    y           FLOAT NOT NULL,
    PRIMARY KEY (run_id, round, sample_hash)
);

-- Which rows went on to the next round where the size of the set was held; no rows where it was small enough.
CREATE TABLE held (
    run_id VARCHAR NOT NULL,
    round  INTEGER NOT NULL,                  -- at whose end
    row_id VARCHAR NOT NULL,                  -- of the set that would have followed
    kept   BOOLEAN NOT NULL,
    reason VARCHAR NOT NULL,
    PRIMARY KEY (run_id, round, row_id)
);
