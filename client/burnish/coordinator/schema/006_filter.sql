-- Version 6: filtering by one signal. More of a score is kept. For the recipe filter `decision.actions` is one of keep | drop
-- | unscored | trusted; the keys of `decision.signals` are the signal's name (its value, higher is better), rank, and what was
-- measured (policy.signals.Features); `threshold.axis` is low_value. The steps of its rounds are split, score_pre, embed, choose,
-- decide, calibrate, features, project, hold, assemble, train, score_cross, score_trusted, evaluate: round 1 is all rows,
-- round 2 what is kept, rounds 3 to 32 are fold models, from 33 on what was tried (all rows first, then shares), 42 the model
-- of the trusted rows alone, from 43 on random subsets, from 64 on shares tried by the rival signal, 72 what covers the
-- largest share, 73 all and trusted rows, 74 these alone; those from 3 on have models but no data set of their own.

ALTER TABLE score ADD COLUMN mean_probability DOUBLE;   -- of the response tokens, arithmetic
ALTER TABLE score ADD COLUMN min_probability DOUBLE;    -- of the least likely response token
ALTER TABLE score ADD COLUMN unconditional_nll DOUBLE;  -- of the responses without their prompts, nats per token
ALTER TABLE score ADD COLUMN ifd DOUBLE;                -- mean loss given the prompt over mean loss without it
ALTER TABLE score ADD COLUMN pmi DOUBLE;                -- mean of log p(y|x) - log p(y), nats per token
-- What was asked for: 0 the loss, 1 the probabilities too, 2 the responses without their prompts too. A column that was
-- asked for and is NULL could not be had.
ALTER TABLE score ADD COLUMN parts INTEGER DEFAULT 0;
