-- Format 2. Programs of format 1 use such a file as ever: they take no job with a unique key.

-- The jobs of a unique key, those of one state together. The texts of one key begin alike: `{"key":"…",`.
CREATE INDEX job_unique ON job ("unique", state) WHERE "unique" IS NOT NULL;
