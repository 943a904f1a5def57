#!/bin/sh
# One S3 account, whose keys come from the environment, on one disk.
set -eu
printf '{"identities":[{"name":"loopfm","credentials":[{"accessKey":"%s","secretKey":"%s"}],"actions":["Admin"]}]}' \
    "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" >/tmp/s3.json
exec weed server -dir=/data -ip.bind=0.0.0.0 -volume.max=0 -master.volumeSizeLimitMB=1024 -s3 -s3.config=/tmp/s3.json
