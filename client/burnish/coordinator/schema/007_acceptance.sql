-- Version 7: rewrites that more than rules are asked of. Rounds of Middo with `accept` agree, or `rejected` drop, have the steps
-- score_rewrites and judge_rewrites (both of agree only) and accept after refine.

-- Whether each rewrite that a round's decisions asked for was accepted, and by what: policy/acceptance.py replayed gives the
-- same. No rows in rounds where rules alone decide.
CREATE TABLE acceptance (
    run_id         VARCHAR NOT NULL,
    round          INTEGER NOT NULL,
    row_id         VARCHAR NOT NULL,
    strategy       VARCHAR NOT NULL,          -- simplify | improve | diversify
    accepted       BOOLEAN NOT NULL,
    refusal        VARCHAR NOT NULL,          -- invalid | loss | rating | declined | failed | unscored | unrated; ''
                                              -- where accepted
    loss_before    DOUBLE,                    -- under the round's model, nats per response token
    loss_limit     DOUBLE,                    -- what the rewrite's loss may be at most
    loss_after     DOUBLE,
    quality_before DOUBLE,                    -- by the base model, 0 to 10
    quality_after  DOUBLE,
    dropped        BOOLEAN NOT NULL,          -- the row leaves the set
    PRIMARY KEY (run_id, round, row_id, strategy)
);
