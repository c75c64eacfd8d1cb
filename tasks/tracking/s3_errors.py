"""What the client of an S3 store raises, if there is one."""


def s3_errors() -> tuple[type[Exception], ...]:
    """The base classes, which share none; empty without the extra s3."""
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError:
        return ()
    return Boto3Error, BotoCoreError, ClientError
