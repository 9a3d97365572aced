"""The object store: any server that speaks S3. The only package that knows boto3."""
