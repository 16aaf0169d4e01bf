-- A server's database as version 1 of its tables had it: a key, a finished job and a waiting one.
BEGIN TRANSACTION;
CREATE TABLE about (
	version INTEGER NOT NULL
);
INSERT INTO "about" VALUES(1);
CREATE TABLE deliveries (
	job TEXT NOT NULL, 
	url TEXT NOT NULL, 
	due FLOAT, 
	tries INTEGER NOT NULL, 
	outcome TEXT, 
	PRIMARY KEY (job)
);
CREATE TABLE jobs (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id TEXT NOT NULL, 
	line INTEGER NOT NULL, 
	place BIGINT NOT NULL, 
	owner TEXT NOT NULL, 
	request JSON NOT NULL, 
	model TEXT NOT NULL, 
	loras JSON NOT NULL, 
	origin TEXT NOT NULL, 
	priority INTEGER NOT NULL, 
	deadline FLOAT, 
	webhook TEXT, 
	idempotency TEXT, 
	created FLOAT NOT NULL, 
	waiting_since FLOAT NOT NULL, 
	started FLOAT, 
	finished FLOAT, 
	state TEXT NOT NULL, 
	alone BOOLEAN NOT NULL, 
	attempts INTEGER NOT NULL, 
	fence INTEGER NOT NULL, 
	worker TEXT, 
	lease_until FLOAT, 
	progress JSON, 
	error JSON, 
	pictures JSON, 
	bytes BIGINT NOT NULL, 
	favourites INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	UNIQUE (id), 
	FOREIGN KEY(line) REFERENCES lines (id)
);
INSERT INTO "jobs" VALUES(1,'3011633aaf1941bc71fdf565a596f707',1,1,'c8e7f3eea6f22568','{"prompt": "1girl, cat ears", "negative": "oldest", "width": 64, "height": 64, "steps": 30, "guidance": 7.0, "decoder_steps": 10, "decoder_guidance": 2.0, "sampler": "ddpm", "decoder_sampler": "ddpm", "schedule": "default", "decoder_schedule": "default", "shift": 1.0, "decoder_shift": 1.0, "rescale": 0.0, "compression": null, "seed": 5, "count": 1, "init": null, "strength": 0.6, "loras": [], "embeddings": []}','m','[]','own',0,NULL,NULL,'first',1.79544273989192676539e+09,1.79544273989192676539e+09,1.79544273991442298894e+09,1.79544273993351745605e+09,'succeeded',0,0,1,NULL,NULL,NULL,NULL,'[{"name": "30/3011633aaf1941bc71fdf565a596f707/00000000000000000000000000000000.png", "width": 64, "height": 64, "seed": 5, "type": "image/png", "bytes": 40, "info": {}, "favourite": false}]',40,0,2);
INSERT INTO "jobs" VALUES(2,'4324aa79e4cb9315c08ab746a29c006c',1,2,'c8e7f3eea6f22568','{"prompt": "1girl, cat ears", "negative": "oldest", "width": 64, "height": 64, "steps": 30, "guidance": 7.0, "decoder_steps": 10, "decoder_guidance": 2.0, "sampler": "ddpm", "decoder_sampler": "ddpm", "schedule": "default", "decoder_schedule": "default", "shift": 1.0, "decoder_shift": 1.0, "rescale": 0.0, "compression": null, "seed": 5, "count": 1, "init": null, "strength": 0.6, "loras": [], "embeddings": []}','m','[]','own',0,9000000000.0,NULL,NULL,1.79544273995101642607e+09,1.79544273995101642607e+09,NULL,NULL,'queued',0,0,0,NULL,NULL,NULL,NULL,NULL,0,0,0);
CREATE TABLE keys (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	hash BLOB NOT NULL, 
	scopes JSON NOT NULL, 
	created FLOAT NOT NULL, 
	revoked FLOAT, 
	PRIMARY KEY (id)
);
INSERT INTO "keys" VALUES('c8e7f3eea6f22568','ann',X'F1185E625F94EB28D607B45BE2E2A3D8490301ABC00EF343006BBF9C4A3D214F','["generate"]',1.79544273986533379551e+09,NULL);
CREATE TABLE lines (
	id INTEGER NOT NULL, 
	model TEXT NOT NULL, 
	priority INTEGER NOT NULL, 
	owner TEXT NOT NULL, 
	served BIGINT NOT NULL, 
	waiting BIGINT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (owner, model, priority)
);
INSERT INTO "lines" VALUES(1,'m',0,'c8e7f3eea6f22568',1,1);
CREATE TABLE secrets (
	name TEXT NOT NULL, 
	value BLOB NOT NULL, 
	PRIMARY KEY (name)
);
CREATE INDEX lines_served ON lines (served);
CREATE INDEX deliveries_due ON deliveries (due) WHERE due IS NOT NULL;
CREATE INDEX jobs_shelved ON jobs (owner, bytes) WHERE bytes > 0;
CREATE UNIQUE INDEX jobs_named ON jobs (owner, idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX jobs_owner ON jobs (owner, seq);
CREATE INDEX jobs_suspect ON jobs (model, place) WHERE state = 'queued' AND alone IS 1;
CREATE INDEX jobs_queued ON jobs (owner, place) WHERE state = 'queued';
CREATE INDEX jobs_ended ON jobs (finished) WHERE finished IS NOT NULL;
CREATE INDEX jobs_in_line ON jobs (line, place) WHERE state = 'queued' AND alone IS 0;
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_due ON jobs (deadline) WHERE finished IS NULL AND deadline IS NOT NULL;
CREATE INDEX jobs_held ON jobs (worker) WHERE state = 'running';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',2);
COMMIT;
